SELECT quarantine_id
FROM agent_quarantine
JOIN unnest($1::uuid[], $2::uuid[]) AS asked (account_id, quarantine_id) USING (account_id, quarantine_id)
