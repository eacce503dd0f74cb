-- Adds the staged rows to those that are there, and tells which these were.
UPDATE application_cell AS c SET
    suspended_ms = c.suspended_ms + s.suspended_ms,
    unknown_ms = c.unknown_ms + s.unknown_ms,
    paused_ms = c.paused_ms + s.paused_ms,
    away_ms = c.away_ms + s.away_ms,
    busy_ms = c.busy_ms + s.busy_ms,
    idle_ms = c.idle_ms + s.idle_ms,
    background_ms = c.background_ms + s.background_ms,
    timeouts = c.timeouts + s.timeouts,
    instances = c.instances + s.instances
FROM stage_application_cell AS s
WHERE c.account_id = s.account_id AND c.documents = s.documents AND c.level = s.level AND c.quarter = s.quarter AND c.application_id = s.application_id
RETURNING s.n
