SELECT k.i::int, e.received::text, e.links
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[]) WITH ORDINALITY AS k (account_id, agent_id, epoch, lane, i)
JOIN agent_epoch e USING (account_id, agent_id, epoch, lane)
