-- +goose Up
ALTER TABLE manager ADD COLUMN admission_position bigint NOT NULL DEFAULT 0, ADD COLUMN admission_ms bigint NOT NULL DEFAULT 0;

CREATE TABLE enrollment_token (
    account_id uuid NOT NULL,
    enrollment_token_id uuid NOT NULL,
    manager_id uuid NOT NULL,
    display_name text NOT NULL,
    max_uses integer NOT NULL,
    used integer NOT NULL DEFAULT 0,
    created timestamptz NOT NULL,
    expires timestamptz NOT NULL,
    revoked timestamptz,
    -- Of the last event, as a Manager tells up to where it goes by what was decided.
    position bigint NOT NULL,
    decided_ms bigint NOT NULL,
    PRIMARY KEY (account_id, enrollment_token_id)
);
SELECT cetrus.wall('enrollment_token');
CREATE INDEX enrollment_token_by_age ON enrollment_token (account_id, manager_id, created, enrollment_token_id);

CREATE TABLE agent_admission (
    account_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    revoked boolean NOT NULL,
    copies boolean NOT NULL,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL,
    position bigint NOT NULL,
    decided_ms bigint NOT NULL,
    PRIMARY KEY (account_id, agent_id)
);
SELECT cetrus.wall('agent_admission');
CREATE INDEX agent_admission_by_age ON agent_admission (account_id, created, agent_id);
