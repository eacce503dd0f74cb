-- +goose Up

-- The key under which an account's agents compute document ids. It is drawn once
-- and kept for as long as the account is, whatever is built anew beside it: with
-- another key the same file would be another document.
CREATE TABLE document_key (
    account_id uuid PRIMARY KEY,
    key bytea NOT NULL CHECK (octet_length(key) = 32),
    created timestamptz NOT NULL DEFAULT now()
);
SELECT cetrus.wall('document_key');
