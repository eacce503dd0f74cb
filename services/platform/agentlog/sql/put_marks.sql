INSERT INTO agent_mark (account_id, agent_id, epoch, lane, first, marks, least, most)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bytea[], $7::bigint[], $8::bigint[])
ON CONFLICT (account_id, agent_id, epoch, lane, first)
DO UPDATE SET marks = EXCLUDED.marks, least = EXCLUDED.least, most = EXCLUDED.most WHERE length(EXCLUDED.marks) > length(agent_mark.marks)
