// Package wayland is a client of a Wayland compositor for a program that only
// wants to be told things: when the person was idle, and which windows there are.
//
// It speaks the wire protocol of the core specification ("Wire Format" and appendix
// "wl_display" of https://wayland.freedesktop.org/docs/html/) over the compositor's
// socket: 32-bit words in the machine's byte order, a message being the object it
// concerns, its size and opcode, and its arguments. Interfaces are not generated: the
// caller names opcodes, of which an observer needs about ten.
//
// It may touch one Unix socket and nothing else. It binds the interfaces that its
// caller names to Globals, and no others; it draws nothing, and it neither
// sends nor takes file descriptors, so that keymaps, images of the screen and
// selections, which travel as such, cannot reach it.
package wayland
