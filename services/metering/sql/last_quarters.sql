-- The last quarter-hours of use and of busy use of each application by each of the people $2,
-- of the account $1. Coarse rows say where to look in finer ones, so that a few rows are read
-- of each whatever the time that has passed: 16 days, then a day, an hour, a quarter-hour.
-- $3 and $4 narrow to applications and machines; NULL: all. -1 is none: what is removed by age loses
-- its coarse rows last, so that for a while there may be no finer ones.
WITH known AS (
    SELECT c.principal_id, c.application_id, c.machine_id, max(c.quarter) AS open_at, max(c.quarter) FILTER (WHERE c.busy_ms > 0) AS busy_at
    FROM unnest($2::uuid[]) AS p (id)
    CROSS JOIN LATERAL (
        SELECT * FROM cell AS c WHERE c.account_id = $1::uuid AND c.level = 3 AND c.principal_id = p.id
        AND ($3::uuid[] IS NULL OR c.application_id = ANY ($3::uuid[])) AND ($4::uuid[] IS NULL OR c.machine_id = ANY ($4::uuid[]))
        OFFSET 0
    ) AS c
    GROUP BY 1, 2, 3
)
SELECT k.principal_id, k.application_id, k.machine_id, coalesce(open0.at, -1), coalesce(busy0.at, -1)
FROM known AS k
CROSS JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 2 AND c.principal_id = k.principal_id AND c.quarter >= k.open_at AND c.quarter < k.open_at + 1536
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id
) AS open2
CROSS JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 0 AND c.principal_id = k.principal_id AND c.quarter >= open2.at AND c.quarter < open2.at + 96
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id
) AS open0
LEFT JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 2 AND c.principal_id = k.principal_id AND c.quarter >= k.busy_at AND c.quarter < k.busy_at + 1536
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id AND c.busy_ms > 0
) AS busy2 ON true
LEFT JOIN LATERAL (
    SELECT max(c.quarter) AS at FROM cell AS c
    WHERE c.account_id = $1::uuid AND c.level = 0 AND c.principal_id = k.principal_id AND c.quarter >= busy2.at AND c.quarter < busy2.at + 96
    AND c.application_id = k.application_id AND c.machine_id = k.machine_id AND c.busy_ms > 0
) AS busy0 ON true
