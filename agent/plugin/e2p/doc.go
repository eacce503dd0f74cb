// Package e2p is the built-in plug-in that finds out which project the use of an application
// belongs to: by a rule, or by asking. It knows the contract of plug-ins, the
// account's settings and how to ask; who shows the question is given to it.
//
// What a project is found for is a subject: a run of an application, a window, or a
// file in one, as the account's ProjectPrompt says. A rule goes before the person: rules of
// applications and users when the application opens, rules of folders and file names for
// each file that a window comes to show, whatever the subject is. Where none fits the person
// is asked, one question after the other in a desktop session, filled in with what the same
// person last chose for that application, or failing that in any; on a login that
// several people share, with what the worker whom they name had chosen. An answer may be given
// for all questions of the application that wait. "Later" is asked again at the next
// opening. What cannot be asked, for want of a display say, the plug-in says in its health and
// lets pass: nobody is kept from working by a fault.
//
// A choice is told for each document that its subject is metered under, from when the subject
// was shown there, and holds until the subject closes: a window when it is gone, a file when
// the window is that showed it last, since a file behind another tab and a file that was
// closed look the same from outside. Where policy keeps so little of documents that several
// files share one, the choice is that of the file in front, told anew whenever that changes.
//
// Paths and titles are looked at in memory. Nothing here writes them, and no choice has them.
//
// # Unfinished
//
//   - What was open before the agent started, or before the account switched the prompt on,
//     is not asked for, unless it was being asked for when the agent stopped.
//   - What was never saved is a document of its own: it is asked for, and so is the file that
//     it becomes, filled in with the same choice.
package e2p
