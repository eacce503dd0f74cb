INSERT INTO projection_checkpoint (projection, partitions, stream, stream_created_nanos, position)
SELECT $1, p, $3, $4, 0 FROM unnest($2::text[]) AS p
ON CONFLICT DO NOTHING
