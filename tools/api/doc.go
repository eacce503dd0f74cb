// Package api is a small client of Cetrus's REST API for the tools and the
// end-to-end tests: the same requests that a stranger would make with curl, with
// the contract's own messages.
package api
