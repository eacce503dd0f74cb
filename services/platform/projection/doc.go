// Package projection turns a stream into tables, with an effect that is exactly
// once: one Postgres transaction applies a batch of messages and moves the
// checkpoint, by compare-and-set, from the position before the batch to the
// position behind it. Whatever dies in between, the next run begins where the
// tables end.
//
// A Runner reads one stream for one projection, in order, from checkpoint + 1: all of it, or
// the partitions that Shares says, each of which has a checkpoint of its own, while other processes read the
// others. Who holds what saves work only; the checkpoints guard the tables.
// The checkpoint lives in the schema of the tables that it speaks for, so a
// rebuild is a new schema beside the old one, read from the start of the
// stream, and an earlier one's tables vanish together with its checkpoint. The
// checkpoint also keeps when the stream was created: positions of a stream that
// was deleted and made again mean nothing, so such a stream is refused.
//
// The package may touch JetStream (reading) and the projector's pool of one
// schema; it knows no service and no event.
package projection
