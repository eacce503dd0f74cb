-- Moves what stands under the alias $2 of the account $1 to the principal $3. Cells are found level by level: their key
-- begins with it.

INSERT INTO cell AS c (account_id, level, quarter, principal_id, application_id, machine_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances)
SELECT account_id, level, quarter, $3::uuid, application_id, machine_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances FROM unnest('{0,1,2,3}'::int2[]) AS l (of_level)
CROSS JOIN LATERAL (SELECT * FROM cell WHERE account_id = $1::uuid AND level = of_level AND principal_id = $2::uuid OFFSET 0) AS c
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

DELETE FROM cell USING unnest('{0,1,2,3}'::int2[]) AS l (of_level) WHERE account_id = $1::uuid AND level = of_level AND principal_id = $2::uuid AND $3::uuid IS NOT NULL;

INSERT INTO document_cell AS c (account_id, level, quarter, principal_id, application_id, machine_id, document_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances)
SELECT account_id, level, quarter, $3::uuid, application_id, machine_id, document_id, suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances FROM unnest('{0,1,2,3}'::int2[]) AS l (of_level)
CROSS JOIN LATERAL (SELECT * FROM document_cell WHERE account_id = $1::uuid AND level = of_level AND principal_id = $2::uuid OFFSET 0) AS c
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

DELETE FROM document_cell USING unnest('{0,1,2,3}'::int2[]) AS l (of_level) WHERE account_id = $1::uuid AND level = of_level AND principal_id = $2::uuid AND $3::uuid IS NOT NULL;

UPDATE instance SET principal_id = $3::uuid WHERE account_id = $1::uuid AND principal_id = $2::uuid;

INSERT INTO principal_machine (account_id, principal_id, machine_id)
SELECT account_id, $3::uuid, machine_id FROM principal_machine WHERE account_id = $1::uuid AND principal_id = $2::uuid
ON CONFLICT DO NOTHING;

DELETE FROM principal_machine WHERE account_id = $1::uuid AND principal_id = $2::uuid AND $3::uuid IS NOT NULL;

INSERT INTO principal_application AS k (account_id, principal_id, application_id, machine_id, last_quarter)
SELECT account_id, $3::uuid, application_id, machine_id, last_quarter FROM principal_application WHERE account_id = $1::uuid AND principal_id = $2::uuid
ON CONFLICT (account_id, principal_id, application_id, machine_id) DO UPDATE SET last_quarter = greatest(k.last_quarter, excluded.last_quarter);

DELETE FROM principal_application WHERE account_id = $1::uuid AND principal_id = $2::uuid AND $3::uuid IS NOT NULL;
