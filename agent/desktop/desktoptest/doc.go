// Package desktoptest starts a real X11 desktop for a test: a virtual X server on
// a free display, a window manager, real programs, and a hand on mouse and
// keyboard (xdotool). It starts processes and ends those that it started.
//
// It needs the packages xvfb, openbox, xdotool, x11-utils, x11-apps and xterm,
// which `make` installs; where one is missing the test fails and names it.
package desktoptest
