// Package owned tells whether a file or a folder of Windows is the machine's: whether
// nobody but the system and its administrators can have written what is there, or can
// put something else in its place. A service that runs as LocalSystem believes nothing
// else: a settings file or a folder of plug-ins that anybody may write would be a way to
// run anything as the system.
//
// It may touch the owners and access lists of what it is asked about and of the folders
// above that, and the access list of a folder that is to be the agent's own.
//
// What judges is pure (owned.go) and is tested on access lists as Microsoft documents
// them. Wine makes up owners and access lists from those of Unix, which the test under
// Wine uses; whether they are enforced is a step of docs/windows-checklist.md.
package owned
