-- +goose Up

-- Agents that an administrator has removed, and when: they are not listed until they are
-- heard of later.
CREATE TABLE removed_agent (
    account_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    removed_ms int8 NOT NULL,
    PRIMARY KEY (account_id, agent_id)
);
SELECT cetrus.wall('removed_agent');
