SELECT e.account_id, e.agent_id, e.epoch, e.lane, e.received::text, e.links
FROM unnest($1::uuid[], $2::uuid[]) AS k (account_id, agent_id)
JOIN agent_epoch e USING (account_id, agent_id)
