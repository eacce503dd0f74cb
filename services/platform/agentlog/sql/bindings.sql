SELECT b.account_id, b.agent_id, b.principal_alias, b.principal_id
FROM unnest($1::uuid[], $2::uuid[]) AS k (account_id, agent_id)
JOIN agent_binding b USING (account_id, agent_id)
