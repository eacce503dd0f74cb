// Package release keeps, in a folder of the agent's own, the releases that it has fetched,
// and decides which program runs.
//
// One file, runs.json, says so: the current release, the one on trial, and the greatest
// number that was refused. It is replaced in one step. Beside it lie the programs, each under
// the name of its SHA-256, and at most one that is being fetched. The program that was
// installed on the machine lies elsewhere and is never touched: it is what runs where
// nothing here can be trusted.
//
// # How a release comes to run
//
// Fetched, verified and staged, it is on trial from the next start. The program that was
// installed starts it as its child, as a guardian that knows one thing: how long the trial may
// take. The new one, once it has shown that it is well, stops in good order and says so by its
// exit code; the guardian then becomes it, so that the service manager sees one process all the
// time. If it ends otherwise, or takes too long, its number is refused, and the guardian becomes
// the one before. So an upgrade is two short stops, each a time that was not watched.
// Only a greater number than all that ran or were refused is taken.
//
// A program is verified, signature and SHA-256, whenever it is started. A trial that was cut
// short by the machine or the service manager is begun again, up to maxAttempts times.
//
// # Power cuts
//
// Nothing that runs.json names is written after it is named, nothing that it names is
// removed, and what it names has been synced before. A test cuts the power at every step.
//
// # Windows
//
// No process becomes another one there, and a service manager knows the one that it has
// started: the guardian stays, and runs the release as its child after the trial too. It tells
// it by events what a service manager says; a job ends the child with its guardian.
//
// # Plug-ins
//
// A plug-in's releases are kept in a store of their own by its name. The host of plug-ins is
// their guardian, in the agent's own process; the rest is the same.
//
// # Unfinished
//
// On a system that is
// neither Linux nor Windows cetrus-agent refuses the settings of releases.
package release
