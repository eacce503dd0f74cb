INSERT INTO agent_mark (account_id, agent_id, epoch, lane, first, marks)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bytea[])
ON CONFLICT (account_id, agent_id, epoch, lane, first)
DO UPDATE SET marks = EXCLUDED.marks WHERE length(EXCLUDED.marks) > length(agent_mark.marks)
