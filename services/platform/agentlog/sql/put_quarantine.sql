INSERT INTO agent_quarantine (account_id, quarantine_id, reason, detail, agent_id, epoch, records, size, count,
                              subject, type, position, stored, last_stored, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::int8multirange, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (account_id, quarantine_id)
DO UPDATE SET count = agent_quarantine.count + EXCLUDED.count, last_stored = EXCLUDED.last_stored
