// Package enroll makes the Manager the authority of its site: agents prove who they are by
// certificates that it signs, and get the first one for a token that an administrator hands
// out.
//
// The rooms:
//
//	authority   the site's key and certificate, and what is signed with it
//	succession  the authority that follows it, and who signs and is shown when
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
// After four fifths of its life an authority gets a successor, which every Manager shows from then on: an
// agent that sees it for the first time renews at once and trusts both. Managers go on to be known by the
// first until that ends, so an agent that was online once in between does not notice.
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
// An authority whose key is known to others has no way out but to enrol all agents anew: its successor
// is believed because the authority says so. Managers that share an authority do not share the successor
// unless its file is copied, too; each makes its own otherwise. Tokens of the platform do not end with the
// authority that they name.
// Several Managers of one site share it by a copy of its file; each keeps its own book, so
// an agent is to be revoked at each, where it is not by the platform, and who holds a token of one Manager may enrol there
// under the id of an agent that only another one knows. A damaged line of the book is told in
// the log alone, and a revocation on it is lost. An older certificate of an agent
// that comes back after a newer one was used, as of a snapshot that was put back, raises no
// alarm: two machines are noticed when both are connected.
package enroll
