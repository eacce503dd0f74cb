// Package e2e proves the main job on a real desktop: programs are opened, used
// and closed under a real X server by a script, and what the API then reports is
// compared with what the script did.
//
// The truth is computed here from the script alone, by interval algebra, and
// shares no code with the agent. The package may start any binary of the project
// and talks to them as a stranger would: by command line, REST and files.
package e2e
