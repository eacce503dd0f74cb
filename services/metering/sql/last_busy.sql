-- When each of the instances $2 was last busy before the moment $3, as far as that is kept: the
-- interval, up to the moment. $1 is the account, $4 the attention BUSY. Those that never were are
-- left out.
SELECT n.instance_id, i.from_ms, least(i.to_ms, $3::int8)
FROM unnest($2::uuid[]) AS n (instance_id)
CROSS JOIN LATERAL (
    SELECT from_ms, to_ms FROM interval
    WHERE account_id = $1::uuid AND instance_id = n.instance_id AND document_id IS NULL AND attention = $4 AND from_ms < $3
    AND to_ms > coalesce((SELECT instances_before_ms FROM retention WHERE account_id = $1::uuid), -9223372036854775808)
    ORDER BY from_ms DESC LIMIT 1
) AS i
