-- Notes that partitions are level, and tells whether all are.
WITH noted AS (
    UPDATE projection_checkpoint SET level = true
    WHERE projection = $1 AND partitions = ANY ($3::text[]) AND NOT level
    RETURNING 1
)
SELECT count(*) FILTER (WHERE level OR partitions = ANY ($3::text[])) >= $4
FROM projection_checkpoint, (SELECT count(*) FROM noted) AS n
WHERE projection = $1 AND stream = $2
