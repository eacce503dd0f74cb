-- Some keys that another key-encryption key wraps, held until they are wrapped anew.
SELECT account_id, principal_id, wrapping, wrapped
FROM principal_key
WHERE wrapped IS NOT NULL AND wrapping <> $1
LIMIT $2
FOR UPDATE
