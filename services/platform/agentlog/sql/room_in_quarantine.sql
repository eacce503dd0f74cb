-- What the quarantines of some accounts hold. The length of a payload is told
-- without reading it.
SELECT account_id, count(*), sum(octet_length(payload))::int8
FROM agent_quarantine
WHERE account_id = ANY ($1::uuid[]) AND type <> $2
GROUP BY account_id
