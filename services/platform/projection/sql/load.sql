SELECT partitions, stream, stream_created_nanos, position, stored_nanos, turn
FROM projection_checkpoint
WHERE projection = $1 AND partitions = ANY ($2::text[])
