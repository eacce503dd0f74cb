// Package arrows holds the test that keeps the dependency arrows of
// ARCHITECTURE.md: who may import whom, over the whole import graph, which files
// may import no technology, and how light the agent stays. The linter says the
// same at the offending line; this says it without the linter, and through
// other packages too.
package arrows
