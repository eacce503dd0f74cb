-- The intervals of the instances $1 that overlap [$2, $3), in milliseconds of UTC, and those of the
-- documents of the instances $4, which are the same or none; at most $5. An instance's own do not overlap each other,
-- so they are read from the last that begins before the period on; its documents' do. A condition that is known to be
-- false when the query is planned would gate a scan of the whole table, for which workers are started for each instance.
SELECT n.id, coalesce(i.document_id, '00000000-0000-0000-0000-000000000000'), i.from_ms, i.to_ms, i.attention, i.state, i.event_id
FROM unnest($1::uuid[], $4::uuid[]) AS n (id, of_documents)
CROSS JOIN LATERAL (
    SELECT i.* FROM interval AS i
    WHERE i.instance_id = n.id AND i.document_id IS NULL AND i.from_ms < $3::int8 AND i.to_ms > $2::int8
    AND i.from_ms >= coalesce((SELECT b.from_ms FROM interval AS b WHERE b.instance_id = n.id AND b.document_id IS NULL AND b.from_ms <= $2::int8 AND b.to_ms > b.from_ms ORDER BY b.from_ms DESC LIMIT 1), -9223372036854775808)
    UNION ALL
    SELECT i.* FROM interval AS i
    WHERE i.instance_id = n.of_documents AND i.document_id IS NOT NULL AND i.from_ms < $3::int8 AND i.to_ms > $2::int8
    ORDER BY from_ms, to_ms, event_id LIMIT $5::int8
) AS i
