// Package enrollment is what an agent and its Manager must both know for the agent to get a
// certificate: the form of a token, how an agent's id stands in certificates and in requests
// for them, and under which name a Manager of the site is known.
//
// A token is text that a person hands from the Manager to those who install agents. It says
// by a hash which authority is the site's, so that an agent needs nothing else to know its
// Manager, and it holds a secret that admits to that site. Whoever has it may enrol agents
// until it is used up, expired or revoked: it is never logged.
//
// The texts that people paste to install either are here too, since the console and cetrusctl show
// the same.
//
// The package opens no file and no network.
package enrollment
