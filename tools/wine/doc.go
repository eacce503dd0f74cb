// Package wine runs Windows programs on Linux for tests: a Wine prefix that is made
// once and copied for each test, on an X server of its own with a window manager.
//
// Its tests run the agent as a Windows program: the test sets of its packages, its
// desktop, its session helper and pipe, and its life as a service. What Wine cannot
// show is a list of steps for a real machine, docs/windows-checklist.md.
package wine
