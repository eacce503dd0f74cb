-- +goose Up

-- The position of the event that defined the application last, or deleted it: the revision of the
-- policy by which agents were told. 0: from before this was kept.
ALTER TABLE application ADD COLUMN position int8 NOT NULL DEFAULT 0;

-- What of state is counted: whether the agent was connected, and the revision of the policy that
-- it had in force.
ALTER TABLE agent_state
    ADD COLUMN connected bool NOT NULL DEFAULT false,
    ADD COLUMN policy_revision int8 NOT NULL DEFAULT 0;
