-- Who of the people $2, of the account $1, has opened which application at which machine from the quarter-hour $5 on,
-- at which a coarsest row begins. $3 and $4 narrow to applications and machines; NULL: all.
SELECT k.principal_id, k.application_id, k.machine_id FROM unnest($2::uuid[]) AS p (id)
CROSS JOIN LATERAL (
    SELECT k.principal_id, k.application_id, k.machine_id FROM principal_application AS k
    WHERE k.account_id = $1::uuid AND k.principal_id = p.id AND k.last_quarter >= $5
    AND ($3::uuid[] IS NULL OR k.application_id = ANY ($3::uuid[])) AND ($4::uuid[] IS NULL OR k.machine_id = ANY ($4::uuid[]))
    OFFSET 0
) AS k
