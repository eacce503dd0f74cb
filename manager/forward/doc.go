// Package forward carries the buffer's messages into the platform's AGENT stream,
// in their order, once each.
//
// It is the only writer of its subjects, one for each lane, and makes sure of
// that: every publish carries the literal sequence that the subject's last message
// must have. Each message names the buffer and the last position in it whose data
// it holds. On every connect, and after anything unclear, the forwarder reads the
// subject's last message and decides:
//
//   - it came from this buffer: go on behind it, going back if the platform lost a
//     tail;
//   - it came from another buffer, or from a copy of this one: stop, and ask for a
//     takeover, which remembers that message and what follows it, should the
//     platform come back to it;
//   - there is none: go on from the own cursor if what the platform had must have
//     aged out, else from the first message kept.
//
// Small neighbours travel together: serialized batches put one behind another are
// one serialized batch. Several messages may be under way, each expecting the
// sequence that the one before it will get if nobody else writes in between; a
// wrong guess is refused, never stored out of order.
//
// Forwarded messages stay in the buffer for a time or up to a size, since the
// platform does not tell yet what it has archived.
package forward
