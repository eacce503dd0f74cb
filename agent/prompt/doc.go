// Package prompt asks the person at the desktop which project their use of an
// application belongs to: one small window, filled in as far as anything is known,
// so that one Enter is enough.
//
// It runs as a process of its own, for as long as the question stands
// (`cetrus-agent prompt`): the agent's service stays small, and what draws and reads keys
// never runs inside it. The question comes as JSON on its standard input, the answer
// goes to its standard output. When its input ends, the agent is gone or has no
// use for the answer any more, and the window closes.
//
// # Parts
//
//   - Request and Answer: what goes in and comes out. Nothing else does: this
//     process opens no file but fonts, and no network.
//   - Model: fields, focus, keys. Pure, and the same on every system.
//   - paint.go draws a Model into an image; on X11 the image is all that the server gets,
//     so text in any script comes out the same everywhere.
//   - window_linux.go puts the image on an X11 display and turns key presses in its own
//     window into keys of the model.
//
// # Text
//
// Go's own font (Latin, Greek, Cyrillic) is built in. Characters that it lacks are drawn with
// the first font of the system that has them. Scripts that need shaping or run from right to
// left are drawn letter by letter from left to right: legible, not beautiful. There is no
// input method and no clipboard: the agent may not ask for the selection, and the prompt
// is the same program. Dead keys and AltGr work.
//
// # Unfinished
//
//   - There is no window on Windows yet: Ask fails there, and nobody is kept waiting.
//   - On X11 screen readers see the window's title only.
//   - Wayland is reached through Xwayland.
//   - A program that opens its own window later than the prompt may take the keyboard from
//     it; the prompt stays above, and does not take it back.
package prompt
