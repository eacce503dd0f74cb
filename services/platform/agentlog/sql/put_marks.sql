INSERT INTO agent_mark (account_id, agent_id, epoch, lane, seq, link)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bytea[])
ON CONFLICT DO NOTHING
