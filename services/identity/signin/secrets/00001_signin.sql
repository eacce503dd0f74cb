-- +goose Up

-- What people prove themselves with. Rows of these tables are changed where a call is
-- answered, behind the wall of its account, so the query role may write them.

CREATE TABLE password (
    account_id uuid NOT NULL,
    login_id   uuid NOT NULL,
    -- argon2id, as a PHC string.
    hash       text NOT NULL,
    changed    timestamptz NOT NULL,
    -- Somebody else has chosen it.
    one_time   boolean NOT NULL,
    PRIMARY KEY (account_id, login_id)
);
SELECT cetrus.wall('password');

CREATE TABLE totp (
    account_id    uuid NOT NULL,
    login_id      uuid NOT NULL,
    -- The secret that counts, sealed; null before the first was confirmed.
    sealed        bytea,
    confirmed     timestamptz,
    -- The last step whose code was used.
    used_step     bigint NOT NULL DEFAULT 0,
    -- A secret that a code has still to confirm.
    pending       bytea,
    pending_until timestamptz,
    PRIMARY KEY (account_id, login_id),
    CHECK ((sealed IS NULL) = (confirmed IS NULL)),
    CHECK ((pending IS NULL) = (pending_until IS NULL))
);
SELECT cetrus.wall('totp');

CREATE TABLE recovery_code (
    account_id uuid NOT NULL,
    login_id   uuid NOT NULL,
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (account_id, login_id, hash)
);
SELECT cetrus.wall('recovery_code');

-- Links to a new password; using one deletes all of its login.
CREATE TABLE reset_link (
    account_id uuid NOT NULL,
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    login_id   uuid NOT NULL,
    expires    timestamptz NOT NULL,
    PRIMARY KEY (account_id, hash)
);
SELECT cetrus.wall('reset_link');

CREATE TABLE session (
    account_id    uuid NOT NULL,
    session_id    uuid NOT NULL,
    login_id      uuid NOT NULL,
    created       timestamptz NOT NULL,
    last_used     timestamptz NOT NULL,
    expires       timestamptz NOT NULL,
    second_factor boolean NOT NULL,
    address       text NOT NULL,
    user_agent    text NOT NULL,
    -- When and why it ended, and whether the log has been told.
    ended         timestamptz,
    reason        integer NOT NULL DEFAULT 0,
    actor         text NOT NULL DEFAULT '',
    told          boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account_id, session_id)
);
CREATE INDEX ON session (account_id, login_id, created DESC);
CREATE INDEX ON session (expires);
CREATE INDEX ON session (ended) WHERE ended IS NOT NULL AND NOT told;
SELECT cetrus.wall('session');

-- Every refresh token of a session that has not ended, the used ones too: who shows one
-- of these has it from where it should not be.
CREATE TABLE refresh_token (
    account_id uuid NOT NULL,
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    session_id uuid NOT NULL,
    used       timestamptz,
    PRIMARY KEY (account_id, hash),
    FOREIGN KEY (account_id, session_id) REFERENCES session ON DELETE CASCADE
);
CREATE INDEX ON refresh_token (account_id, session_id);
SELECT cetrus.wall('refresh_token');

-- How often somebody failed, under keyed hashes of names and addresses. Names that are no
-- login's count as well, so that these rows belong to no account: they stand behind the
-- wall of an id that no account has.
CREATE TABLE attempt (
    account_id  uuid NOT NULL,
    key         bytea NOT NULL CHECK (octet_length(key) = 32),
    failures    integer NOT NULL,
    last        timestamptz NOT NULL,
    -- Of a login and an address together: until when the address counts as the login's own.
    known_until timestamptz,
    PRIMARY KEY (account_id, key)
);
CREATE INDEX ON attempt (last);
SELECT cetrus.wall('attempt');

-- The keys that access tokens are signed with, sealed; behind the same wall.
CREATE TABLE signing_key (
    account_id uuid NOT NULL,
    key_id     text NOT NULL,
    sealed     bytea NOT NULL,
    created    timestamptz NOT NULL,
    -- When every process knows it, and when the next one takes its place.
    signs_from timestamptz NOT NULL,
    withdrawn  timestamptz,
    PRIMARY KEY (account_id, key_id)
);
SELECT cetrus.wall('signing_key');

GRANT INSERT, UPDATE, DELETE ON password, totp, recovery_code, reset_link, session, refresh_token, attempt TO identitysecrets_query;
