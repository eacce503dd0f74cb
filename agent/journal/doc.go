// Package journal keeps what an agent has observed until a Manager has it: an
// append-only queue of records on disk, one for each lane. It may touch its
// directory and nothing else.
//
// # What lies in the directory
//
//	<epoch>-<first seq>.seg   segments: a header, then records, and the anchors that
//	                          they name, each with a checksum
//	state.a, state.b          the epoch and the ranges acknowledged, overwritten by turns
//	slot.a, slot.b            the crash slot, overwritten by turns
//	labels.a, labels.b        names of documents that no Manager has yet
//	quarantine/               damaged segments, for a person to look at
//
// # What it promises
//
//   - Append returns nil after the records are synced, not before; appends that
//     come together share one sync. Frame gives nothing that is not synced.
//   - A record keeps its (agent, epoch, seq) and its bytes for as long as it is
//     there. Sequence numbers begin at 1 with each epoch and have no gaps.
//   - A torn end, which a crash in the middle of a write leaves, is cut off: nobody
//     was told that it was kept.
//   - Any other damage is said loudly, in the log and in Stats. The damaged file is
//     put aside, and what can be read and is not acknowledged goes on in a new epoch.
//     A record that was sent, but not acknowledged, before such damage is then sent
//     again under another key: the one case in which a reader could count it twice.
//     It carries the same event id.
//   - A change of epoch is written in both copies of the state before anything of the old
//     epoch goes. Where a copy is damaged, segments of another epoch are removed only
//     where every record of theirs is certain to be in the one that goes on; else they
//     are put aside, and Damage says so. A damaged state costs acknowledgements, which
//     come again, and never a record.
//   - An acknowledgement is kept durably. Segments are deleted as a whole, once all in
//     them is acknowledged and the crash slot is past it.
//
// # Size
//
// A usage event takes about 235 bytes. TestDayOfWork measures 0.67 MB for an office day
// (8 programs and 8 documents open for nine hours), and 2.25 MB for 20 programs and 40
// documents that are worked on for nine hours and stay open all day, most of it for the
// cuts at each quarter-hour. Of these six weeks offline are 95 MB: DefaultMaxBytes is
// 128 MiB. A machine of several people needs as much for each of them. At the cap Append
// refuses with a FullError, Stats.Full is set, and the log says so: the caller keeps
// what it has and stops observing, rather than that anything is dropped in silence.
// A cap below LeastMaxBytes, or of fewer than four segments, is refused: room comes back
// by whole segments, and the one that is written is never deleted.
// The slot, state and label files come on top: a few kilobytes each.
//
// In memory it holds a few words for each segment, the labels that wait, and, while it
// reads, one segment (DefaultSegmentBytes).
package journal
