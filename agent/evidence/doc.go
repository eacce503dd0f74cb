// Package evidence tells which files a process has to do with, so that a document whose
// title gives a bare name is found by its folder too. It is asked by package activity,
// for a process whose window names a file, when that title is new; never where policy
// keeps nothing of documents, and never for a program that is not metered.
//
// It reads the command line and, on Linux, the names of open files, and hands paths to
// activity, which keeps them in memory until it has reduced them as policy says. It opens
// none of the files and asks no file system for them: one on a server that does not
// answer would hold the agent up. It reads no other program's memory.
//
// # What Linux tells
//
// /proc/<pid>/cmdline with the present folder (/proc/<pid>/cwd) for what is relative, and
// the links of /proc/<pid>/fd. Both are to be had of the agent's own user's programs, or
// of all where it runs as root. Files of the system itself (/usr, /proc, …) are left out.
//
// # What Windows tells
//
// The command line, by NtQueryInformationProcess with the least right that there is, so
// of elevated programs too; never that of another process that has got the number since. Relative paths on it are left out, since the folder that they
// start from stands in the program's memory. Handles are not looked at: the system tells
// their names only to who duplicates each of them into its own process, and asking for
// the name of some (pipes) waits for ever.
package evidence
