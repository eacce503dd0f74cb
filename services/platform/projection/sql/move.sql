-- The compare-and-set: no row where another runner has moved the checkpoint, or
-- where it speaks of another stream.
UPDATE projection_checkpoint
SET position = $5, moved = now()
WHERE projection = $1 AND partitions = $2 AND stream_created_nanos = $3 AND position = $4
