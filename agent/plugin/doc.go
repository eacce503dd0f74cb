// Package plugin hosts the agent's plug-ins: programs that the agent starts, and parts
// of the agent that follow the same contract (proto/cetrus/plugin/v1) without a process of
// their own. What a plug-in may know and tell is in that contract and nowhere else.
//
// # A program as a plug-in
//
// It is written with package serve, which is hashicorp/go-plugin's server; see the folder
// example. The host speaks go-plugin's protocol itself: a cookie and the versions in the
// environment, one line on the program's standard output, and mutual TLS with
// certificates made for that run. Linking go-plugin's client into the agent would cost
// 1.4 MB of its 20 MB of memory though no plug-in is there (docs/adr/016).
//
// A folder of plug-ins holds programs, a list of them (plugins.json: name, file, SHA-256) and
// the list's Ed25519 signature with the id of its key (plugins.json.sig). A program whose
// bytes are not those of the list, or a list that nobody trusted has signed, is refused, and
// health says so. What was checked is what runs: the program is copied into a folder of
// the agent's while it is hashed, and started from there.
//
// A list has a number that only goes forward: an older one, or another one of the same
// number, is refused though it is signed. The folder is looked at each minute. A new list is
// taken without a restart: what is gone from it, or is another program now, is stopped, the
// rest goes on; one that is refused changes nothing of what runs.
//
// # Releases
//
// A program may also be given from elsewhere, by Replace: the agent fetches releases of
// plug-ins from its Manager (docs/adr/031). One takes the place of the folder's program of that
// name. On trial it has to work for a while and be well at the end; it is not started
// again where it does not, and whoever gave it is told.
//
// # Containment
//
//   - A crash ends nothing but the plug-in. It is started again after a pause that doubles up
//     to a limit, and begins anew once it has worked for a while.
//   - Every call has a deadline and Check is called all the while: what does not
//     answer is ended.
//   - Events wait in a bounded queue. A plug-in that lets it overflow is ended; when it
//     comes back it is told what is open, so it has missed a history but not the present.
//   - Memory: on Linux the kernel limits its data segment from just after its start, and more
//     resident memory than allowed ends it at the next heartbeat; its children have the first
//     limit each, and not the second. On Windows a job object bounds all of them together.
//   - Its own children end with it, by its process group or job, unless they have left the
//     group. When the agent itself is killed, Windows ends all of them; Linux ends the
//     program and not its children.
//   - A fact of a kind that it did not describe, and activity from a program, are refused.
//
// # Unfinished
//
//   - The folder's programs and their list come by whatever the administrator uses.
//   - A Manager cannot take a plug-in away: a release with a greater number replaces it.
//   - Inventory snapshots are taken in and counted, and go no further yet.
//   - A plug-in runs as the agent's user.
//   - Events tell of instances, not of documents, and come from what is shown live.
package plugin
