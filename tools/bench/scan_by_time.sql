-- Time by attention and day or hour, added up from the intervals themselves. As
-- scan_whole.sql; $10 is 'day' or 'hour', $11 the zone. An interval is cut at each
-- quarter-hour: where an hour or a day begins, in every zone, one begins too.
WITH piece AS (
    SELECT i.instance_id, i.attention,
        greatest(i.from_ms, q.begin_ms, $2::int8) AS from_ms,
        least(i.to_ms, q.begin_ms + 900000, $3::int8) AS to_ms
    FROM interval i
    CROSS JOIN LATERAL generate_series(i.from_ms - i.from_ms % 900000, i.to_ms, 900000) AS q(begin_ms)
    WHERE i.account_id = $1 AND i.document_id IS NULL AND i.from_ms < $3 AND i.to_ms > $2
)
SELECT
    CASE WHEN $4 THEN n.application_id::text ELSE '' END,
    CASE WHEN $5 THEN n.principal_id::text ELSE '' END,
    CASE WHEN $6 THEN n.machine_id::text ELSE '' END,
    date_trunc($10, to_timestamp(p.from_ms / 1000.0), $11),
    p.attention, sum(p.to_ms - p.from_ms)::int8
FROM piece p
JOIN instance n ON n.account_id = $1 AND n.instance_id = p.instance_id
WHERE p.from_ms < p.to_ms
    AND ($7::uuid[] IS NULL OR n.application_id = ANY ($7::uuid[]))
    AND ($8::uuid[] IS NULL OR n.principal_id = ANY ($8::uuid[]))
    AND ($9::uuid[] IS NULL OR n.machine_id = ANY ($9::uuid[]))
GROUP BY 1, 2, 3, 4, 5
