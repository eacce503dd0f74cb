-- Adds the staged rows to those that are there, and tells which these were.
UPDATE instance AS c SET
    opened_ms = least(c.opened_ms, s.opened_ms),
    closed_ms = coalesce(s.closed_ms, c.closed_ms),
    decided_ms = greatest(c.decided_ms, s.decided_ms),
    last_day = greatest(c.last_day, s.last_day),
    lost = c.lost OR s.lost,
    suspended_ms = c.suspended_ms + s.suspended_ms,
    unknown_ms = c.unknown_ms + s.unknown_ms,
    paused_ms = c.paused_ms + s.paused_ms,
    away_ms = c.away_ms + s.away_ms,
    busy_ms = c.busy_ms + s.busy_ms,
    idle_ms = c.idle_ms + s.idle_ms,
    background_ms = c.background_ms + s.background_ms,
    timeouts = c.timeouts + s.timeouts,
    instances = c.instances + s.instances
FROM stage_instance AS s
WHERE c.account_id = s.account_id AND c.instance_id = s.instance_id
RETURNING s.n
