// Package ledger keeps, for each person of a machine, what was recorded of them on each of
// the last days: so many milliseconds per application, document and attention. It is what
// "my data" shows.
//
// The journal cannot: it lets go of what a Manager has acknowledged. The ledger is fed with
// the same usage events right after they were journalled, so it says what is sent, no
// more; and it needs no Manager to say it.
//
// It touches one folder. Each person has a file there, named after their alias: lines that
// are added, and added up once a day, when what is older than the days kept is left out
// too. A line that was torn, or cannot be read, is passed over and counted. The file holds
// names of applications and documents as they are sent, reduced as the policy says; nobody
// but the agent can open it.
//
// A crash between the journal and the ledger leaves out what came last; nothing is ever
// counted twice. A full disk leaves out what came while it was full, which is logged.
package ledger
