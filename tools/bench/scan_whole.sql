-- Time by attention without regard to days or hours, added up from the intervals
-- themselves. $1 account, $2 to $3 the span in milliseconds of UTC, $4 to $6 by
-- application, person, machine, $7 to $9 the filters, NULL for all.
SELECT
    CASE WHEN $4 THEN n.application_id::text ELSE '' END,
    CASE WHEN $5 THEN n.principal_id::text ELSE '' END,
    CASE WHEN $6 THEN n.machine_id::text ELSE '' END,
    NULL::timestamptz,
    i.attention, sum(least(i.to_ms, $3::int8) - greatest(i.from_ms, $2::int8))::int8
FROM interval i
JOIN instance n ON n.account_id = $1 AND n.instance_id = i.instance_id
WHERE i.account_id = $1 AND i.document_id IS NULL AND i.from_ms < $3 AND i.to_ms > $2 AND i.from_ms < i.to_ms
    AND ($7::uuid[] IS NULL OR n.application_id = ANY ($7::uuid[]))
    AND ($8::uuid[] IS NULL OR n.principal_id = ANY ($8::uuid[]))
    AND ($9::uuid[] IS NULL OR n.machine_id = ANY ($9::uuid[]))
GROUP BY 1, 2, 3, 4, 5
