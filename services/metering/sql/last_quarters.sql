-- The last quarter-hours of use and of busy use of applications by people at machines, of the account $1, from the
-- quarter-hour $6 on, at which a coarsest row begins; $2 are numbers by which each is told. Coarse rows say where to look
-- in finer ones, so that a few rows are read of each whatever the time that has passed: 16 days, then a day, a quarter-hour.
SELECT k.n, coalesce(open0.at, -1), coalesce(busy0.at, -1)
FROM unnest($2::int4[], $3::uuid[], $4::uuid[], $5::uuid[]) AS k (n, principal_id, application_id, machine_id)
CROSS JOIN LATERAL (
    SELECT max(c.quarter) AS open_at, max(c.quarter) FILTER (WHERE c.busy_ms > 0) AS busy_at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 3 AND c.principal_id = k.principal_id AND c.quarter >= $6
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id
) AS at3
CROSS JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 2 AND c.principal_id = k.principal_id AND c.quarter >= at3.open_at AND c.quarter < at3.open_at + 1536
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id
) AS open2
CROSS JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 0 AND c.principal_id = k.principal_id AND c.quarter >= open2.at AND c.quarter < open2.at + 96
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id
) AS open0
LEFT JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 2 AND c.principal_id = k.principal_id AND c.quarter >= at3.busy_at AND c.quarter < at3.busy_at + 1536
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id AND c.busy_ms > 0
) AS busy2 ON true
LEFT JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 0 AND c.principal_id = k.principal_id AND c.quarter >= busy2.at AND c.quarter < busy2.at + 96
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id AND c.busy_ms > 0
) AS busy0 ON true
