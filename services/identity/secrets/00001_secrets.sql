-- +goose Up

-- The key under which names of an account are hashed to the ids of their reservations; of the names of
-- accounts under the account of zeros. Without it no name that is taken would be known as such: it is drawn
-- once and kept.
CREATE TABLE name_key (
    account_id uuid PRIMARY KEY,
    key bytea NOT NULL CHECK (octet_length(key) = 32),
    created timestamptz NOT NULL DEFAULT now()
);
SELECT cetrus.wall('name_key');
