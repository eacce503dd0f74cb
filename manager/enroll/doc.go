// Package enroll makes the Manager the authority of its site: agents prove who they are by
// certificates that it signs, and get the first one for a token that an administrator hands
// out.
//
// The rooms:
//
//	authority   the site's key and certificate, and what is signed with it
//	book        tokens and agents, in a journal of its own
//	admission   what the platform decides on both, carried out in the book, and what it is told
//	service     the calls, the TLS in front of them, and who may make which
//
// A token is kept as a hash. It admits so many agents until it expires, and is revoked
// without harm to those that it admitted. An agent's certificate lasts for 30 days and is
// renewed by the agent at half of that; the one before goes on until its end, so that an
// answer that was lost does no harm. An expired one still renews itself for half a year, as
// a laptop is away for longer than a month: what ends an agent is its revocation, which is
// looked up at each connection and, for those that are there, every second.
//
// Who holds an agent's certificate with its key may enrol another agent with it: that is how
// a copied machine, which must be an agent of its own, gets there without anybody's help. It
// is written down whose copy it is, and there is a bound for all that come of one.
//
// The package may write below the folder that it is given, and serves on connections that
// others accept.
//
// # Unfinished
//
// The authority is for 20 years and has no successor yet; an alarm tells a year ahead.
// Several Managers of one site share it by a copy of its file; each keeps its own book, so
// an agent is to be revoked at each, where it is not by the platform, and who holds a token of one Manager may enrol there
// under the id of an agent that only another one knows. A damaged line of the book is told in
// the log alone, and a revocation on it is lost. An older certificate of an agent
// that comes back after a newer one was used, as of a snapshot that was put back, raises no
// alarm: two machines are noticed when both are connected.
package enroll
