-- The compare-and-set: no row where anybody else has written the tables since, or
-- where the checkpoint speaks of another stream.
UPDATE projection_checkpoint
SET position = $6, stored_nanos = $7, turn = turn + 1, moved = now()
WHERE projection = $1 AND partitions = $2 AND stream_created_nanos = $3 AND position = $4 AND turn = $5
