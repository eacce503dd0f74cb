-- Who of the people $2, of the account $1, has opened which application at which machine from the quarter-hour $5 on,
-- at which a coarsest row begins: all of it stands in the key. $3 and $4 narrow to applications and machines; NULL: all.
SELECT DISTINCT c.principal_id, c.application_id, c.machine_id
FROM unnest($2::uuid[]) AS p (id)
CROSS JOIN LATERAL (
    SELECT c.principal_id, c.application_id, c.machine_id FROM cell AS c WHERE c.account_id = $1::uuid AND c.level = 3 AND c.principal_id = p.id AND c.quarter >= $5
    AND ($3::uuid[] IS NULL OR c.application_id = ANY ($3::uuid[])) AND ($4::uuid[] IS NULL OR c.machine_id = ANY ($4::uuid[]))
    OFFSET 0
) AS c
