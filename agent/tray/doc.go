// Package tray is the agent's icon beside the clock: what is recorded now, pause and
// resume, "my data", and the notice of the first run.
//
// It runs as a process of its own in the person's session (`cetrus-agent tray`), which on
// Linux the session starts, and on Windows the service (desktop.Accompany). It talks
// to the agent through the control channel alone, as the person whom the system says it
// is. It touches that channel, the desktop's place for icons, and in the person's own
// folder one file for "my data" and, where a service has started it, its log.
//
// # Parts
//
//   - View: what an icon shows, made from the agent's status. Pure, and the same on every
//     system: ViewOf decides which icon, which words, which entries, and what each does.
//   - Icon.Draw draws the icon in any size.
//   - Run asks the agent from time to time, shows views through a Front, and does what the
//     person chooses.
//   - A Front puts a View on the desktop. sni_linux.go is one: a StatusNotifierItem with a
//     com.canonical.dbusmenu. Where nobody shows such icons it waits silently for somebody.
//     front_windows.go is another: an icon of the taskbar, by package win32.
//
// # Unfinished
//
//   - On Windows there is no setting that leaves the icon out, and what it costs there has
//     not been measured; a menu that is open does not change with what it tells of.
//   - On Linux it takes 10 MB of memory, of which 4 are its own, and up to 15 for a minute after its
//     menu was used: more than the 12 of a session's helper. Most is the program's file.
//   - A reason in the person's own words can be given at the command line only.
//   - GNOME shows such icons only with an extension (Ubuntu's is there by default).
//   - Words are English.
package tray
