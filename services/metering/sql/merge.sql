-- Adds one staged batch to the totals. Statements end with a semicolon at the end
-- of a line.

INSERT INTO cell AS c (account_id, level, quarter, principal_id, application_id, machine_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances)
SELECT account_id, level, quarter, principal_id, application_id, machine_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances FROM stage_cell
ON CONFLICT (account_id, level, principal_id, quarter, application_id, machine_id) DO UPDATE SET
    suspended_ms = c.suspended_ms + excluded.suspended_ms,
    unknown_ms = c.unknown_ms + excluded.unknown_ms,
    paused_ms = c.paused_ms + excluded.paused_ms,
    away_ms = c.away_ms + excluded.away_ms,
    busy_ms = c.busy_ms + excluded.busy_ms,
    idle_ms = c.idle_ms + excluded.idle_ms,
    background_ms = c.background_ms + excluded.background_ms,
    timeouts = c.timeouts + excluded.timeouts,
    instances = c.instances + excluded.instances;

INSERT INTO document_cell AS c (account_id, level, quarter, principal_id, application_id, machine_id, document_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances)
SELECT account_id, level, quarter, principal_id, application_id, machine_id, document_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances FROM stage_document_cell
ON CONFLICT (account_id, level, principal_id, quarter, application_id, machine_id, document_id) DO UPDATE SET
    suspended_ms = c.suspended_ms + excluded.suspended_ms,
    unknown_ms = c.unknown_ms + excluded.unknown_ms,
    paused_ms = c.paused_ms + excluded.paused_ms,
    away_ms = c.away_ms + excluded.away_ms,
    busy_ms = c.busy_ms + excluded.busy_ms,
    idle_ms = c.idle_ms + excluded.idle_ms,
    background_ms = c.background_ms + excluded.background_ms,
    timeouts = c.timeouts + excluded.timeouts,
    instances = c.instances + excluded.instances;

INSERT INTO application_cell AS c (account_id, level, quarter, documents, application_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances)
SELECT account_id, level, quarter, documents, application_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances FROM stage_application_cell
ON CONFLICT (account_id, documents, level, quarter, application_id) DO UPDATE SET
    suspended_ms = c.suspended_ms + excluded.suspended_ms,
    unknown_ms = c.unknown_ms + excluded.unknown_ms,
    paused_ms = c.paused_ms + excluded.paused_ms,
    away_ms = c.away_ms + excluded.away_ms,
    busy_ms = c.busy_ms + excluded.busy_ms,
    idle_ms = c.idle_ms + excluded.idle_ms,
    background_ms = c.background_ms + excluded.background_ms,
    timeouts = c.timeouts + excluded.timeouts,
    instances = c.instances + excluded.instances;

INSERT INTO instance AS c (account_id, instance_id, application_id, principal_id, machine_id, session_id, opened_ms, closed_ms, decided_ms, last_day, lost, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances)
SELECT account_id, instance_id, application_id, principal_id, machine_id, session_id, opened_ms, closed_ms, decided_ms, last_day, lost, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances FROM stage_instance
ON CONFLICT (account_id, instance_id) DO UPDATE SET
    opened_ms = least(c.opened_ms, excluded.opened_ms),
    closed_ms = coalesce(excluded.closed_ms, c.closed_ms),
    decided_ms = greatest(c.decided_ms, excluded.decided_ms),
    last_day = greatest(c.last_day, excluded.last_day),
    lost = c.lost OR excluded.lost,
    suspended_ms = c.suspended_ms + excluded.suspended_ms,
    unknown_ms = c.unknown_ms + excluded.unknown_ms,
    paused_ms = c.paused_ms + excluded.paused_ms,
    away_ms = c.away_ms + excluded.away_ms,
    busy_ms = c.busy_ms + excluded.busy_ms,
    idle_ms = c.idle_ms + excluded.idle_ms,
    background_ms = c.background_ms + excluded.background_ms,
    timeouts = c.timeouts + excluded.timeouts,
    instances = c.instances + excluded.instances;
