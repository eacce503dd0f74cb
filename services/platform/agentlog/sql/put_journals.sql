INSERT INTO agent_epoch (account_id, agent_id, epoch, lane, received, links)
SELECT account_id, agent_id, epoch, lane, received::int8multirange, links
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::text[], $6::bytea[])
    AS k (account_id, agent_id, epoch, lane, received, links)
ON CONFLICT (account_id, agent_id, epoch, lane)
DO UPDATE SET received = EXCLUDED.received, links = EXCLUDED.links
