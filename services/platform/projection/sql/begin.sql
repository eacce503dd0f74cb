INSERT INTO projection_checkpoint (projection, partitions, stream, stream_created_nanos, position)
VALUES ($1, $2, $3, $4, 0)
ON CONFLICT DO NOTHING
