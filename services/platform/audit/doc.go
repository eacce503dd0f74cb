// Package audit records that somebody saw the use of persons by name, for whichever service
// answered: an event under the context audit, which identity's audit log shows like any other.
//
// The event is in the log before the answer leaves: what cannot be recorded is not shown.
//
// It knows the event log and who calls, and no service.
package audit
