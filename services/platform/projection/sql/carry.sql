-- Partitions begin where the one checkpoint of all of them was. That one stays, as one of another stream:
-- a former release that still runs, or is put back, refuses to go on from it.
WITH former AS (
    UPDATE projection_checkpoint
    SET stream = stream || ', by partition', turn = turn + 1
    WHERE projection = $1 AND partitions = 'all' AND stream = $2
    RETURNING stream_created_nanos, position, stored_nanos, turn
)
INSERT INTO projection_checkpoint (projection, partitions, stream, stream_created_nanos, position, stored_nanos, turn)
SELECT $1, p::text, $2, f.stream_created_nanos, f.position, f.stored_nanos, f.turn
FROM former AS f CROSS JOIN generate_series(0, $3::int4 - 1) AS p
ON CONFLICT DO NOTHING
