// Command cetrus-manager runs a Manager, as a program or as a service of the
// operating system, and tells how it is doing.
//
// Configuration comes from a YAML file, then from environment variables
// CETRUS_MANAGER_*, then from flags; later ones win.
package main
