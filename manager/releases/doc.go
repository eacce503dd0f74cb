// Package releases keeps what a Manager offers to its agents: signed releases of the agent
// and of plug-ins, as files in a folder of its own.
//
// A release is offered in waves. The hash of an agent's id decides how early it is served;
// the share widens one step each period, as long as those that took the release are well.
// Where too many are not, the release is held: nobody else is offered it until a person says
// go on, or withdraws it. The same order holds a release that is well.
//
// The library verifies what it is given with the keys that it trusts. Agents do so again with
// theirs: a Manager can keep a release back, never forge one. A file that has changed on the
// Manager's disk is noticed when it is served next, by its size or time, and held until it is
// added again; a change that keeps both is noticed by agents alone until the Manager restarts.
//
// Plug-ins are offered each by its own name and number, to agents that take any; keys for
// plug-ins sign nothing else.
package releases
