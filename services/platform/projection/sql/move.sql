-- The compare-and-set: fewer rows than were asked for where anybody else has written the tables
-- since, or where a checkpoint speaks of another stream.
UPDATE projection_checkpoint AS c
SET position = $6, stored_nanos = $7, waiting = $8, turn = c.turn + 1, moved = now()
FROM unnest($3::text[], $4::int8[], $5::int8[]) AS h (partitions, position, turn)
WHERE c.projection = $1 AND c.stream_created_nanos = $2 AND c.partitions = h.partitions AND c.position = h.position AND c.turn = h.turn
