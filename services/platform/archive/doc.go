// Package archive keeps a stream's messages in sealed segments outside of NATS, before they are
// taken out of the stream.
//
// A segment is one object of a store (a folder, or S3): a run of the stream's sequences with all
// messages of it, compressed, encrypted and authenticated in blocks under a key of the file
// archive-key, with a digest of the whole. Each names the digest of the one before, so that one
// which was removed, replaced or put elsewhere is found, by whoever has the key. An object is
// made once and never changed: two archivers at work make the same segment, and the second is
// refused and goes on behind it.
//
//	store.go, folder.go, s3.go   where objects lie
//	keys.go, sealed.go           what makes a sealed object of bytes; backups are made of these too
//	segment.go                   the messages in one
//	archive.go                   the chain of segments of a stream, and how it is read
//	archiver.go                  reads the stream, makes segments, and empties the stream behind them
//	backup.go, backupwatch.go    a backup's files, and whether there is one that is young enough
//
// A stream that was put back from a backup continues in a branch: segments that it has forgotten
// stay where they are, and are read no more (Archive.Fork).
//
// The package may touch JetStream, one file of a key, and the store. It knows no event.
package archive
