// Package win32 is what the agent needs of user32 and gdi32 to show a window of its own on
// Windows: the prompt for a project, and the icon beside the clock with its menu, behind
// which a window stands that nobody sees (trayicon_windows.go). It serves programs that run in a person's session, never the service, which has no desktop.
//
// Everything that it asks for concerns the window that it has made: its own messages,
// its own keys while it has the keyboard, where it stands. All procedures are in
// procs_windows.go, and a test of the command keeps the list. None of them tells what
// happens elsewhere: which keys are held is known from the window's own messages, and the
// pointer's place from its own clicks.
//
// There is nothing here for other systems.
package win32
