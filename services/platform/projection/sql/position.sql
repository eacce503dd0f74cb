SELECT coalesce(min(position), 0)
FROM projection_checkpoint
WHERE projection = $1 AND stream NOT LIKE '%, by partition' AND ($2::text IS NULL OR partitions = $2)
