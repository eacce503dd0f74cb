-- When each of the instances $2 was last busy before the moment $3; $1 is the account, $4 the
-- attention BUSY. Those that never were are left out.
SELECT n.instance_id, least(i.to_ms, $3::int8)
FROM unnest($2::uuid[]) AS n (instance_id)
CROSS JOIN LATERAL (
    SELECT to_ms FROM interval
    WHERE account_id = $1::uuid AND instance_id = n.instance_id AND document_id IS NULL AND attention = $4 AND from_ms < $3
    ORDER BY from_ms DESC LIMIT 1
) AS i
