-- The oldest rows, removed to be tried again: what fails again comes back. Rows
-- that only count, of type $6, stay.
DELETE FROM agent_quarantine q
USING (
    SELECT account_id, quarantine_id FROM agent_quarantine
    WHERE ($1::uuid IS NULL OR account_id = $1::uuid) AND type <> $6
      AND (stored, account_id, quarantine_id) > ($3::timestamptz, $4::uuid, $5::uuid)
    ORDER BY stored, account_id, quarantine_id
    LIMIT $2
) AS oldest
WHERE q.account_id = oldest.account_id AND q.quarantine_id = oldest.quarantine_id
RETURNING q.account_id, q.quarantine_id, q.count, q.subject, q.type, q.position, q.stored, q.payload
