-- +goose Up

-- How each agent was doing when it was last heard of. It is not built from a log: Managers
-- tell it, and tell it again when they are asked. conditions is a bit set of
-- AgentCondition, without those that depend on the time; state a serialized
-- cetrus.agent.v1.AgentState.
CREATE TABLE agent_state (
    account_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    manager_id uuid NOT NULL,
    seen_ms int8 NOT NULL,
    skew_ms int8 NOT NULL,
    conditions int4 NOT NULL,
    host_name text NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (account_id, agent_id)
) WITH (fillfactor = 50);
SELECT cetrus.wall('agent_state');
