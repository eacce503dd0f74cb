// Package ports finds TCP ports of loopback for servers that must be found at the same
// port again after they were stopped or killed: a private PostgreSQL, and what tests
// and developers' tools start.
//
// To listen on port 0 and close again is not enough: the kernel gives such a port to
// the next connection or listener that asks for any. So these lie where the kernel
// gives none, and are held against everybody else who asks here, in any process, until
// they are let go or their process ends: by the UDP port of the same number, which
// nobody else has a use for. A server that may take another port each time takes port 0 and
// tells which it was.
//
// The package imports no other package of the platform.
package ports
