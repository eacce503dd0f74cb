-- How many keys other key-encryption keys wrap.
SELECT count(*) FROM principal_key WHERE wrapped IS NOT NULL AND wrapping <> ALL ($1::bytea[])
