// Package packages holds what the packages that are rolled out are made of, and tests
// that they do what docs/fleet.md says: the agent's MSI under Wine, deb and rpm in a
// folder that stands for a machine. tools/packages.sh makes them.
//
//	agent.wxs, msi.sql    the MSI: what wixl can say, and what it cannot
//	*.nfpm.yaml           deb and rpm
//	agent/, manager/      units, settings and maintainer scripts that these install
//	agent.yaml            settings of an agent, with an address of no Manager
//
// # What is unfinished
//
//   - Nothing enrols an agent yet, so there is no property, setting or file for a token.
//   - The MSI differs in a few bytes each time: its package code and two dates, which
//     wixl takes from the clock, and the dates of signatures. deb and rpm do not.
//   - On Linux the agent runs once in each person's X11 session (a unit of the user's
//     service manager), as there is no service with a helper per session there yet.
//   - The units have not run under a live systemd here: their syntax and what they keep
//     from the programs is checked without one.
//   - Only amd64 is built. There is no MSI of the Manager, and no package repository.
package packages
