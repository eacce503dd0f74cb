SELECT k.i::int, m.first, m.marks
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bigint[]) WITH ORDINALITY
    AS k (account_id, agent_id, epoch, lane, least, most, i)
JOIN agent_mark m USING (account_id, agent_id, epoch, lane)
WHERE m.least <= k.most AND m.most >= k.least
