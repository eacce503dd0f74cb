-- +goose Up

-- Which events a mail was sent for, or will never be: kept longer than any event is acted on.
-- What became of it is a word; why is the mail server's code.
CREATE TABLE mail (
    account_id uuid NOT NULL,
    event_id text NOT NULL,
    became text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (account_id, event_id)
);
SELECT cetrus.wall('mail');
CREATE INDEX mail_by_age ON mail (at);

-- From where a login has signed in, as keyed hashes.
CREATE TABLE known_origin (
    account_id uuid NOT NULL,
    login_id uuid NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    at timestamptz NOT NULL,
    PRIMARY KEY (account_id, login_id, hash)
);
SELECT cetrus.wall('known_origin');
