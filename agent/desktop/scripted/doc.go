// Package scripted is a desktop that follows a script: programs, windows,
// inputs, locks, sleeps, clock changes and reboots, in virtual or in real time.
//
// Nothing in it is random and nothing depends on the machine that it runs on, so
// a script's truth is known before it is played. The demo office, the load
// generator, the fault harness and the loader of history play scripts through
// the very agent that watches real desktops. It touches no operating system.
//
// In virtual time a script is played as fast as whoever listens can take it:
// Watch does not go on before tell has returned. While nobody watches, virtual
// time stands still and real time does not, as on a real machine whose agent is
// down: what happened meanwhile has happened when Watch is called again.
package scripted
