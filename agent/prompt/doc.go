// Package prompt asks the person at the desktop which project their use of an
// application belongs to: one small window, filled in as far as anything is known,
// so that one Enter is enough.
//
// The same window shows a notice (Request.Notice): a text, and a button that says that it
// was read.
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
//   - paint.go and notice.go draw a Model into an image; the image is all that the screen
//     gets, so text in any script comes out the same everywhere.
//   - window_linux.go and window_windows.go put the image into a window and turn key presses
//     in that window into keys of the model.
//   - attention_linux.go: which keys are meant for the prompt, and when it asks for the
//     keyboard.
//
// # Limits
//
// What a text must be (Field.Limits, by proto/expense) is looked at with each key: advice to
// somebody who is still writing, a fault once they go on, with Tab or Enter, from what is not
// valid. Enter accepts nothing then and leads back to it. The answer is checked again by
// ReadAnswer, in the service: this process runs as the person, and is not believed. Where
// more such questions wait (Request.Others) a box makes the answer one for all; where
// somebody says that another one is working, the fields that nobody touched follow
// (Request.Recent).
//
// # Text
//
// Go's own font (Latin, Greek, Cyrillic) is built in. Characters that it lacks are drawn with
// the first font of the system that has them. Scripts that need shaping or run from right to
// left are drawn letter by letter from left to right: legible, not beautiful. There is
// no clipboard: the agent may not ask for it, and the prompt is the same program. Dead keys
// and AltGr work, and on Windows input methods, whose window stands where they put it.
//
// # Windows
//
// The window follows the scale of the monitor that the person works at. Which modifiers are
// held is known from the window's own keys; nothing is asked of the keyboard. Windows gives
// the keyboard to a program that the person has not started only where nothing else has it:
// otherwise the window stands above the others, its button flashes, and Alt+Tab or a click
// leads to it. An Enter that was held down before the window came is not an answer.
//
// # Keyboard on X11
//
// Keys count once the window has had the keyboard for a moment in which none was pressed, and
// only then it shows a focus: what somebody was writing elsewhere answers nothing. A click
// counts at once. A program often opens its own window after the prompt and takes the
// keyboard; the prompt asks the window manager for it once, in the first seconds and unless
// somebody has gone there by a key or a click, or writes there. For that it reads how long
// ago keyboard and pointer were used, not what was pressed.
//
// # Unfinished
//
//   - Screen readers are told the window's title only.
//   - On X11 there is no input method.
//   - Wayland is reached through Xwayland.
//   - On X11 the keyboard is not taken back where the server has no SYNC extension, nor where
//     the mouse moved just as the program took it: that may have been a click. What was
//     written while keys do not count yet is lost, and not passed on.
package prompt
