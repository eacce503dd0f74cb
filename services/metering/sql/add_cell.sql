-- Adds the staged rows to those that are there, and tells which these were.
UPDATE cell AS c SET
    suspended_ms = c.suspended_ms + s.suspended_ms,
    unknown_ms = c.unknown_ms + s.unknown_ms,
    paused_ms = c.paused_ms + s.paused_ms,
    away_ms = c.away_ms + s.away_ms,
    busy_ms = c.busy_ms + s.busy_ms,
    idle_ms = c.idle_ms + s.idle_ms,
    background_ms = c.background_ms + s.background_ms,
    timeouts = c.timeouts + s.timeouts,
    instances = c.instances + s.instances
FROM stage_cell AS s
WHERE c.account_id = s.account_id AND c.level = s.level AND c.principal_id = s.principal_id AND c.quarter = s.quarter AND c.application_id = s.application_id AND c.machine_id = s.machine_id
RETURNING s.n
