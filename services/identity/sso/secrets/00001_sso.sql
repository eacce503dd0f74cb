-- +goose Up

-- What Cetrus proves itself with at identity providers, sealed under the account's key. The
-- log says which of an account's rows counts; a row that no event names counts for nothing.
CREATE TABLE provider_secret (
    account_id uuid NOT NULL,
    secret_id  uuid NOT NULL,
    sealed     bytea NOT NULL,
    created    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, secret_id)
);
SELECT cetrus.wall('provider_secret');

-- Attempts to sign in that have come to their end: none does so twice.
CREATE TABLE used_attempt (
    account_id uuid NOT NULL,
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    expires    timestamptz NOT NULL,
    PRIMARY KEY (account_id, hash)
);
SELECT cetrus.wall('used_attempt');

-- Rows are changed where a call is answered, behind the wall of its account.
GRANT INSERT, DELETE ON provider_secret, used_attempt TO identitysecrets_query;
