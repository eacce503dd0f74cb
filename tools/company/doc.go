// Package company makes a company's use of applications, as agents would have told it: for proofs
// and benches, which need years of it within seconds.
//
// New plans it by a seed: the same one gives the same company, but for the days that it lies on and
// the ids of what it was told. Nobody's day is like another's, and together they are what a company
// is: weeks and seasons, several sites, laptops that come back from a journey with three weeks of
// use, or through another Manager with the later half first, machines that two people share, people
// with two machines, programs left open over a week-end, sleep, lock, pauses, agents that were
// stopped or killed, two forgotten servers, documents, a person whom two Managers know as two.
//
// What comes out are frames, with records, anchors and a hash chain that hold, in the order in which
// a platform gets them. Send puts them into the AGENT stream of a running platform as its Managers
// would, with names sealed; Found gives that platform the applications, logins and groups.
//
// Unlike the office, which lets real agents look at scripted desktops, it decides itself what an
// agent would say: it is no proof of agents.
package company
