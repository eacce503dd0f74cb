// Package fleet proves, through all tiers, what is true of many machines: that copies of a
// machine become agents of their own and double nothing, and that the platform's API tells
// how each agent is doing.
//
// Agents are real ones over scripted desktops, in this process; platform and Manager are
// `cetrus all` as a stranger would start it.
package fleet
