-- +goose Up

-- Passkeys: the public halves, which are no secret.
CREATE TABLE passkey (
    account_id    uuid NOT NULL,
    passkey_id    uuid NOT NULL,
    login_id      uuid NOT NULL,
    -- The authenticator's own id. It is nobody else's, in any account.
    credential_id bytea NOT NULL UNIQUE CHECK (octet_length(credential_id) BETWEEN 1 AND 1023),
    -- The host name that it is bound to.
    relying_party text NOT NULL,
    public_key    bytea NOT NULL,
    format        text NOT NULL,
    aaguid        bytea NOT NULL,
    transports    text[] NOT NULL,
    -- What its authenticator last said of itself, and its counter.
    flags         smallint NOT NULL,
    sign_count    bigint NOT NULL,
    display_name  text NOT NULL,
    created       timestamptz NOT NULL,
    last_used     timestamptz,
    -- Since when it is refused, as its counter went back.
    suspended     timestamptz,
    PRIMARY KEY (account_id, passkey_id)
);
CREATE INDEX ON passkey (account_id, login_id);
SELECT cetrus.wall('passkey');

-- Challenges that were answered: none is twice. Who answers is not always known, so they stand
-- behind the wall of an id that no account has.
CREATE TABLE used_challenge (
    account_id uuid NOT NULL,
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    expires    timestamptz NOT NULL,
    PRIMARY KEY (account_id, hash)
);
CREATE INDEX ON used_challenge (expires);
SELECT cetrus.wall('used_challenge');

GRANT INSERT, UPDATE, DELETE ON passkey, used_challenge TO identitysecrets_query;
