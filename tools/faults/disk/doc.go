// Package disk is a disk that fails as disks do: a file system (FUSE) over a folder that
// notes what has been written and not synced, so that a power cut can take it away
// again. It can also be full, fail writes and syncs, tear writes, and be read-only.
//
// What a power cut leaves follows ext4 with ordered data, and is no kinder:
//
//   - What is in a file is safe once the file was synced, or was written to a file that
//     was opened with O_SYNC or O_DSYNC. Of the rest nothing, all, or any of the pages
//     of 4 KiB remains; a page may be torn at any sector of 512 bytes, and a file that
//     grew may have any length between.
//   - Making, renaming and removing happen in their order. A sync of anything makes
//     safe all of them that came before. Of the rest the first few remain.
//   - After a failed sync the pages that it was about count as written, as in Linux: a
//     further sync does not save them, unless they are written again.
//
// It needs Linux, /dev/fuse and root. It touches the folder and its mount, and knows
// nothing of what is kept there.
package disk
