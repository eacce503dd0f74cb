-- +goose Up

-- One row an event, in the order of the log. changes is JSON as text, since it is compared as it
-- was written; NULL where the event's type was not known. data and link are SHA-256.
CREATE TABLE audit_entry (
    account_id uuid NOT NULL,
    position int8 NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    context text NOT NULL,
    aggregate text NOT NULL,
    aggregate_id text NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    origin text NOT NULL,
    command text NOT NULL,
    data bytea NOT NULL,
    link bytea NOT NULL,
    changes text,
    PRIMARY KEY (account_id, position)
);
SELECT cetrus.wall('audit_entry');
CREATE INDEX audit_entry_of_aggregate ON audit_entry (account_id, aggregate_id, position);
CREATE INDEX audit_entry_of_actor ON audit_entry (account_id, actor, position);

-- The last link of each account's chain.
CREATE TABLE audit_head (
    account_id uuid PRIMARY KEY,
    position int8 NOT NULL,
    link bytea NOT NULL
);
SELECT cetrus.wall('audit_head');

-- What the events of each aggregate have said so far, as JSON by field.
CREATE TABLE audit_said (
    account_id uuid NOT NULL,
    context text NOT NULL,
    aggregate text NOT NULL,
    aggregate_id text NOT NULL,
    said text NOT NULL,
    PRIMARY KEY (account_id, context, aggregate, aggregate_id)
);
SELECT cetrus.wall('audit_said');
