-- Adds the keys that are new and says which those are.
INSERT INTO principal_key (account_id, principal_id, manager_id, wrapping, wrapped)
SELECT $1, k.principal_id, $2, $3, k.wrapped
FROM unnest($4::uuid[], $5::bytea[]) AS k (principal_id, wrapped)
ON CONFLICT (account_id, principal_id) DO NOTHING
RETURNING principal_id
