INSERT INTO agent_binding (account_id, agent_id, principal_alias, principal_id, position)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[])
