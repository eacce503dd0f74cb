-- What the instances of the desktop session $2 of the account $1 were, interval by interval in the
-- order of time, as far as it is kept; at most $3.
SELECT n.instance_id, n.application_id, n.principal_id, n.machine_id, i.from_ms, i.to_ms, i.attention, i.state, i.reason, i.session_access,
    i.event_id, i.agent_id, i.epoch, i.seq, i.position
FROM (SELECT * FROM instance WHERE account_id = $1::uuid AND session_id = $2::uuid OFFSET 0) AS n
CROSS JOIN LATERAL (
    SELECT * FROM interval AS i
    WHERE i.instance_id = n.instance_id AND i.document_id IS NULL
    AND i.to_ms > coalesce((SELECT instances_before_ms FROM retention WHERE account_id = $1::uuid), -9223372036854775808)
    OFFSET 0
) AS i
ORDER BY i.from_ms, i.to_ms, i.event_id LIMIT $3::int8
