-- How many keys another key-encryption key wraps.
SELECT count(*) FROM principal_key WHERE wrapped IS NOT NULL AND wrapping <> $1
