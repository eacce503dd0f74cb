-- Puts keys that were wrapped anew in their places.
UPDATE principal_key AS p SET wrapping = $1, wrapped = k.wrapped
FROM unnest($2::uuid[], $3::uuid[], $4::bytea[]) AS k (account_id, principal_id, wrapped)
WHERE p.account_id = k.account_id AND p.principal_id = k.principal_id
