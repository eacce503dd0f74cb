// Package desktop watches a machine's desktop sessions and tells what they show
// as observations, which package activity turns into usage.
//
// It may touch the operating system, and little of it: which windows there are,
// which one owns the keyboard, the titles, whose process a window is, which
// programs run, when the last input was, whether the session is locked, and the
// clocks. It installs no hook and asks for no key, no pointer position, no image
// of the screen and no clipboard; tests hold it to that.
//
// Open gives the desktop of the system that the program was built for (files ending in
// _linux or _windows): all sessions of the machine for a service, one otherwise. Package scripted is the same interface over a
// script, in virtual or real time; it runs on every system.
//
// # A machine from parts
//
// sight.go holds the seams of a desktop with several sessions, and machine.go joins
// what is behind them into observations, knowing no system. helper.go is how a session
// is looked at from inside by a process of its own.
//
// On Windows terminal.go says which sessions are somebody's, snapshot.go and bootline.go
// what processes there are and when they began, trace.go which came and went, windowrules.go which windows are some, and
// whose. On Linux seats_linux.go lists the sessions
// of the login manager, or the one of a display that was named; procfs_linux.go says which
// processes are of which, connector_linux.go which came and went; and eyes_linux.go opens the eyes that fit a session's type, in
// its helper or in this process. A helper is confined (confine_linux.go): it can write no
// file, start no program and reach no network. Where the person's own files are needed, as
// the key of a display in their home, the helper reads them: a home whose server is gone
// holds up one helper, and not the service.
//
// Whoever wakes the desktop (machine.go) gets a look at once as often as a person can change
// windows. A helper or a program that goes on beyond that gets four to nine a second: what is
// in front is then told up to a quarter of a second late in that session, and in no other.
//
// launch.go starts other programs of ours in a session, as the person there: the prompt for
// a project, what stands behind the icon beside the clock. accompany.go keeps one in each
// session.
//
// # What Windows tells, and what it does not
//
//   - The announcement of a new foreground window is an event; all else is looked at
//     once a second. An announcement is no hook: no code of ours runs elsewhere.
//   - A window on another virtual desktop is open; one that the shell keeps ready or
//     suspended is not. A store app's window belongs to the app, not to its frame.
//   - Processes are listed by NtQuerySystemInformation: one question, with creation
//     times, sessions and protected processes.
//   - The service is told by the kernel (trace.go: an ETW trace of
//     Microsoft-Windows-Kernel-Process) of processes that start and exit between two looks,
//     a second or two late and with their own times; a program run by hand is not. Exits of
//     processes that show windows are waited for, and seen at once. Where there is no
//     trace, or events were lost, status and Manager are told, and lists are what there is.
//     Of a program on a network share the trace gives no path with a letter: such a short
//     life is known by its name alone. Other programs may write into a trace: an exit that it
//     tells counts once the list lacks the process, and of a short life it is the only word.
//   - The layouts of those events are those of Windows 8 to 11 24H2. A newer version of
//     them is said, not guessed.
//   - The person's user principal name is not asked for; the SID is. Where a session is
//     shown is told by the protocol of its client; who or where that is, is not asked for.
//   - Under Wine 8 there is one session, no announcement and no trace.
//
// # What X11 tells, and what it does not
//
//   - Focus comes from the window manager (_NET_ACTIVE_WINDOW). Without one it
//     comes from the server's own input focus; where the keyboard follows the
//     pointer, focus is "not supported", as the pointer is never asked for.
//   - Changes are seen as they happen; once a second everything that a person can
//     feel is looked at again, in case an event was missed.
//   - A process belongs to the session in which it shows a window, unless it is run by
//     somebody who has a session of their own; otherwise to the one of its user for whose
//     display it was started, or that it was logged in with. One that tells neither, such
//     as one of the user's own service manager, belongs to the first session of that user.
//   - The kernel tells root when processes begin a program and when they end
//     (connector_linux.go: the process connector), also of those that are gone at the next
//     look. Each is read the moment that it has begun, or, where programs begin without
//     pause, ten times a second; of one that is over by then the short name (15 bytes) is
//     known and what its parent was, and nothing if its parent has already asked how it
//     ended. What splits off and begins no program is found when the
//     process that it split off from ends, else within 3 s. A program that nobody wants
//     (Sieve) is read only if it is there a second later, or was on a list as another one.
//   - Without the connector (no root, a container) that is said, processes are looked for
//     once a second, and the kernel tells of ends alone (pidfd); where it does not, the exit
//     is seen at the next look, at most a second late.
//   - Locked is what logind hints, or a lock screen or screen saver of the session bus
//     says to cover the screen. Where logind has only asked for a lock, the session
//     counts as locked until the next input in it, or an unlock. A locker that speaks on
//     neither bus (i3lock started by hand) is not seen: its time is idle, not away.
//   - Where a display is named, its session ends with its X server; the next server on
//     the same display is a new session. The sessions of a service are those of logind: a
//     machine without a login manager has none.
//   - What a server that does not answer shows is not known after 2.5 seconds; after ten
//     it is connected to anew.
//   - logind does not tell when the viewer of a remote session (xrdp, VNC) has left: such
//     a session counts as connected as long as it is there. A session without a seat is
//     taken for remote.
//
// # What Wayland tells, and what it does not
//
// A compositor tells its clients nothing of each other, but for what each offers on
// purpose. Where it offers nothing, focus or input is "not supported", and status and
// Manager are told why.
//
//   - sway tells windows, their processes and what is in front through its own socket,
//     windows of Xwayland too, whose process Xwayland itself is asked for. A dialog of a
//     Wayland program stands on its own there, as sway names no parent.
//   - Other compositors of wlroots (wlr-foreign-toplevel-management) name an application
//     id and no process. A window belongs to a process where the session runs the
//     program of that id, by its desktop file or its own name, exactly once; with another
//     one in front, focus is "not supported" for as long as it is.
//   - GNOME Shell tells nothing by itself: an extension that comes with the packages
//     (shells/gnome) does, where it is enabled, and only to an installed agent. KWin is
//     handed a script (shells/kwin) that tells this agent alone. While GNOME shows its
//     overview, nothing is in front.
//   - Input is what ext-idle-notify-v1 tells of it from version 2 on, or Mutter's idle
//     monitor. Version 1, and org_kde_kwin_idle before it, tell idleness, which a program
//     can hold up, such as a player its film. sway says when one does, and input is "not
//     supported" meanwhile; of others it is said that the two are not told apart.
//   - Idleness is no time of an input: idleness_linux.go says what becomes of it, and how
//     exactly. An input within the first second that a session is looked at may be missed.
//   - A lock screen of ext-session-lock-v1 (swaylock, gtklock) is seen only where it, or
//     what starts it, tells logind (LockedHint): no other client is told of it.
//     Otherwise nothing is in front, which is background, not away.
//   - Whoever uses two seats of one compositor at once counts as one person.
//   - org_kde_plasma_window_management is not used: KWin offers it only to programs whose
//     desktop file asks for it, and the script tells the same.
package desktop
