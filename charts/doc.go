// Package charts holds the Helm charts of the platform (cetrus) and of the Manager
// (cetrus-manager), and what is known of them without a cluster: every template is rendered over
// values of all kinds, what comes out is decoded as strictly as an API server could, and read for
// what must hold of every pod. It is a module of its own, so that Helm and the Kubernetes API stay
// out of all others; it imports none of them.
package charts
