// Package uplink keeps an agent's conversation with its Manager: it sends what
// the journals hold, oldest first, until the Manager has acknowledged it, shows
// live snapshots as they change, and takes in policy.
//
// It may touch the network, the clock and the files of certificates, and reads and
// acknowledges journals through a small interface; it writes nothing to disk itself.
//
// # How it behaves
//
//   - Records are sent at least once. Everything that a connection had not got
//     acknowledged is sent again on the next one; readers drop what they know.
//   - A window limits the frames in flight, so a live snapshot never waits behind
//     more than one frame.
//   - Persons go before frames: an alias is explained before it is used.
//   - Live snapshots are replaced, not queued: only the newest of each session
//     is sent, at most every LivePeriod.
//   - After a failure it waits a random time up to a bound that doubles, and goes
//     to the next address; the bound falls back once a Manager has welcomed it
//     and acknowledged something, or stayed for a while.
//   - An acknowledgement that does not come within AckTimeout ends the connection, and
//     so does a Manager that reads nothing for that long: the frame may be lost, and
//     asking again is the only way to know. The next address is asked, even where
//     this one had acknowledged before. A Manager that says that what was sent waits for
//     its turn is waited for, so long from its last word on.
//   - With an Identity it speaks under that agent's own certificate, which is asked for and
//     renewed on the way; with files under those; with neither in plain, and that to Managers
//     of its own machine only.
//   - Under TLS both sides' files are read for each new connection, so renewed ones need no
//     restart. What is wrong with a certificate is said with the way out, in Status.
//   - A proxy is asked by CONNECT. Without a setting the environment names it.
//   - A Manager may name the Managers to go to. Where it is not among them, the agent moves
//     once one of them can be reached; it adopts them when one has taken it, by acknowledging
//     what waited, and goes back where none does. What was configured always stays on the list.
//   - A Manager that asks to begin as another agent is obeyed through Deps.Anew, and not
//     spoken to again.
//   - A refusal that asks for a new epoch gets one. Any other one holds the lane,
//     or the connection, for RefusalPause; Status says why.
//
// # Unfinished
//
// Certificates from files do not prove which agent shows them. A connection to a Manager further down the list stays there while it is good.
package uplink
