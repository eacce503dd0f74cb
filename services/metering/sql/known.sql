-- Who of the people $2, of the account $1, has opened which application at which machine from the quarter-hour $5 on,
-- at which a coarsest row begins, and the coarsest rows in which that was last open and last busy. $3 and $4 narrow to
-- applications and machines; NULL: all.
SELECT c.principal_id, c.application_id, c.machine_id, max(c.quarter), coalesce(max(c.quarter) FILTER (WHERE c.busy_ms > 0), -1)
FROM unnest($2::uuid[]) AS p (id)
CROSS JOIN LATERAL (
    SELECT * FROM cell AS c WHERE c.account_id = $1::uuid AND c.level = 3 AND c.principal_id = p.id AND c.quarter >= $5
    AND ($3::uuid[] IS NULL OR c.application_id = ANY ($3::uuid[])) AND ($4::uuid[] IS NULL OR c.machine_id = ANY ($4::uuid[]))
    OFFSET 0
) AS c
GROUP BY 1, 2, 3
