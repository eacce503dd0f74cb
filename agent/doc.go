// Package agent is the collector of one machine: it ties the desktop that it
// watches to the state machine that says what use is, to the journal that keeps
// what is final, and to the uplink that sends it.
//
// Observations drive everything: the agent itself reads no clock, so a scripted
// desktop in virtual time plays a month through the same code in minutes. It
// may touch its data directory and its control socket; the operating system is
// the desktop's, the network the uplink's.
//
// Everybody on the machine reaches the control socket (control.go), so nobody gets more of
// it than their share: eight questions at a time for each person with a session, for
// administrators and for all others together, and a choice as often as a person makes one.
//
// # What lies in the data directory
//
//	identity.json   random ids of the agent and of the machine, and keyed hashes that tell
//	                the machine from a copy of it
//	persons.json    the random alias of each operating-system user, and what the
//	                system calls them; sent to the Manager, never journalled
//	settings.json   who has paused, with the note that they wrote for themselves, and who
//	                has seen which notice
//	policy.pb       the last policy, so that a start needs no Manager
//	managers.json   addresses of Managers that a Manager has named, and the installed ones
//	                that they hold for
//	usage/          the journal of usage, with its crash slot
//	ledger/         what was recorded of each person on the last days, for them to see
//	choice/         the journal of projects that people chose or rules assigned; made when a
//	                folder of plug-ins or a policy first asks for it
//	plugins/        copies of the plug-ins that run, what each keeps, and what was fetched of
//	                their releases
//	releases/       what was fetched of releases of the agent, and runs.json: which one runs
//	inherited/      what the folder held of another agent, when it was copied here from that
//	                one's machine, until it is sent
//	anew            there while the agent is to begin as another one at its next start
//	held.json       programs that wait for a choice of project, to let them go after a crash
//	control.sock    where `cetrus-agent status|pause|resume|my-data|notice|tray` talk to it;
//	                the service of a machine has it in /run, where everybody reaches it
//
// Identity and persons are kept twice (*.copy.json). A damaged file is set aside as
// *.damaged, which log and status say, and the agent goes on: with the copy; without one
// as the agent that the journal belongs to, on a machine id drawn anew, and with new
// aliases for all but those whom the crash slot knows, which the Manager binds to the
// same people. Records name their agent and epoch, so what waits in the journal is sent
// as it was written. Where the settings are lost, recording is paused if that is
// allowed; where the policy is, nothing is recorded until a Manager sends one.
//
// # When the folder is a copy
//
// A folder that finds itself on another machine (fingerprint), or whose Manager hears two
// machines under its id, belongs to a new agent: identity, aliases, journals, crash slot and
// ledger begin anew. What the journals held goes to inherited/ and is sent under the name of the
// agent that wrote it, in an epoch of its own: events that this one has sent itself are
// recognised by their ids. The new identity is written last, so that an interrupted change
// is begun again. On a machine that was put back to a snapshot the agent stays who it is,
// and its journals begin a new epoch. Generalize makes a folder clean before it is copied.
//
// What a copy had open before its Manager told it stays without an end under the old id.
//
// # When the journal cannot take more
//
// A full journal or disk does not lose what was observed: what could not be
// written is kept and tried again, nothing further is observed until it is written, and
// the time between is journalled as UNKNOWN. Status and health say so. Where a write
// can neither be completed nor taken back, Run ends with an error: the next start finds
// out what is on the disk, and the time between is UNKNOWN too.
package agent
