-- The keys of some principals of an account; forgotten ones come without bytes.
SELECT principal_id, wrapping, wrapped
FROM principal_key
WHERE account_id = $1 AND principal_id = ANY ($2::uuid[])
