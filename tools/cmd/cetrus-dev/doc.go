// Command cetrus-dev is behind `make run`: it starts the platform, as
// production's own binary, and the agent of this machine, or a simulated company
// where there is no desktop; then it shows who uses what.
//
// It is for a newcomer and for development. It starts what it needs as child
// processes or, the company, within itself through the same agent code; it stops
// all of it on Ctrl-C, and keeps everything under one folder.
package main
