-- Destroys a key; a principal that never had one is kept from getting one.
INSERT INTO principal_key (account_id, principal_id, manager_id, wrapping, wrapped, forgotten)
VALUES ($1, $2, $2, '', NULL, now())
ON CONFLICT (account_id, principal_id) DO UPDATE
SET wrapped = NULL, forgotten = now()
WHERE principal_key.forgotten IS NULL
