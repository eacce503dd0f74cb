// Package inbox is a mail server that takes every mail and delivers none: tests read what
// was sent, and whoever runs `make run` sees on a page what a person would receive.
//
// It keeps the newest mails in memory, so many and so large as its configuration says, and
// forgets them with the process. Whoever reaches the page reads links to new passwords,
// so it listens on loopback only, and no target of production knows this package
// (tools/arrows sees to that).
package inbox
