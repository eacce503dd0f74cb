-- +goose Up

-- What an agent recorded earlier and has still to send: from when to when (NULL: until now) it was recorded, of how
-- much time in all, and of how much that has come; NULL where it tells nothing of that. And how many records wait.
ALTER TABLE agent_state
    ADD COLUMN backlog_from_ms int8,
    ADD COLUMN backlog_until_ms int8,
    ADD COLUMN backlog_ms int8,
    ADD COLUMN backlog_sent_ms int8,
    ADD COLUMN waiting int8 NOT NULL DEFAULT 0;
