-- +goose Up

-- What was received from each journal: the ranges that make counting exactly
-- once out of sending at least once.
CREATE TABLE agent_epoch (
    account_id uuid           NOT NULL,
    agent_id   uuid           NOT NULL,
    -- The journal's epoch, an unsigned number kept bit by bit.
    epoch      bigint         NOT NULL,
    lane       smallint       NOT NULL,
    -- Sequence numbers whose facts are in the tables.
    received   int8multirange NOT NULL,
    -- Links of the chain at the ends of what was received, and the marks of the
    -- last records, as ranges.go encodes them.
    links      bytea          NOT NULL,
    PRIMARY KEY (account_id, agent_id, epoch, lane)
) WITH (fillfactor = 60);
SELECT cetrus.wall('agent_epoch');

-- Four bytes of the chain's link after each record and eight of its event's id,
-- some dozens of records a row. What comes again is compared with the links, so
-- that one key with two contents is not taken for a repetition; what comes in
-- another epoch with the events, so that an event is not counted under two keys.
CREATE TABLE agent_mark (
    account_id uuid     NOT NULL,
    agent_id   uuid     NOT NULL,
    epoch      bigint   NOT NULL,
    lane       smallint NOT NULL,
    -- Sequence number of the first mark.
    first      bigint   NOT NULL,
    marks      bytea    NOT NULL,
    -- When the first and the last of the events were made, in units of 1,024 ms
    -- since 1970, by their ids.
    least      bigint   NOT NULL,
    most       bigint   NOT NULL,
    PRIMARY KEY (account_id, agent_id, epoch, lane, first)
);
SELECT cetrus.wall('agent_mark');

-- The principal that an alias stands for: the first binding seen holds.
CREATE TABLE agent_binding (
    account_id      uuid   NOT NULL,
    agent_id        uuid   NOT NULL,
    principal_alias uuid   NOT NULL,
    principal_id    uuid   NOT NULL,
    -- Where in the stream it was first seen.
    position        bigint NOT NULL,
    PRIMARY KEY (account_id, agent_id, principal_alias)
);
SELECT cetrus.wall('agent_binding');

-- What failed a check, kept as it came so that it can be tried again.
CREATE TABLE agent_quarantine (
    -- The account of the subject; zero where the subject names none.
    account_id    uuid        NOT NULL,
    -- Hash of subject, reason and payload: the same bytes again are counted.
    quarantine_id uuid        NOT NULL,
    -- A reason of proto/contract: MALFORMED, TWO_CONTENTS, …
    reason        text        NOT NULL,
    -- What exactly is wrong, for people.
    detail        text        NOT NULL,
    -- Null where the bytes do not say.
    agent_id      uuid,
    epoch         bigint,
    -- The sequence numbers concerned; null where it is not about records.
    records       int8multirange,
    -- How many records, frames or messages were set aside at a time.
    size          integer     NOT NULL,
    -- How many times these bytes came.
    count         bigint      NOT NULL DEFAULT 1,
    subject       text        NOT NULL,
    -- The message's CloudEvents type, as it said.
    type          text        NOT NULL,
    -- Where in the stream it first came, and when the stream took it.
    position      bigint      NOT NULL,
    stored        timestamptz NOT NULL,
    last_stored   timestamptz NOT NULL,
    -- A serialized AgentBatch, or the whole message where it is none.
    payload       bytea       NOT NULL,
    PRIMARY KEY (account_id, quarantine_id)
);
CREATE INDEX agent_quarantine_stored ON agent_quarantine (account_id, stored);
SELECT cetrus.wall('agent_quarantine');
