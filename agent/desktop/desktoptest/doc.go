// Package desktoptest starts a real X11 desktop for a test: a virtual X server on
// a free display, a window manager, real programs, and a hand on mouse and
// keyboard (xdotool); or a real Wayland compositor without a screen (sway), with
// Xwayland. It starts processes and ends those that it started.
//
// It needs the packages xvfb, openbox, xdotool, x11-utils, x11-apps and xterm, and for
// Wayland sway, swaylock, xwayland, foot and wtype, which `make` installs; where one is missing
// the test fails and names it.
package desktoptest
