// Package tray is the agent's icon beside the clock: what is recorded now, pause and
// resume, "my data", and the notice of the first run.
//
// It runs as a process of its own in the person's session (`cetrus-agent tray`) and talks
// to the agent through the control channel alone, as the person whom the system says it
// is. It touches that channel, the desktop's place for icons, and one file for "my data"
// in the person's own folder.
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
//
// # Unfinished
//
//   - There is no icon on Windows yet; `cetrus-agent tray` shows the notice there.
//   - On Linux it takes 10 MB of memory, of which 4 are its own, and up to 15 for a minute after its
//     menu was used: more than the 12 of a session's helper. Most is the program's file.
//   - A reason in the person's own words can be given at the command line only.
//   - GNOME shows such icons only with an extension (Ubuntu's is there by default).
//   - Words are English.
package tray
