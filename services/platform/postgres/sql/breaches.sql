-- Every relation of the schema $1 that stands open, with the reason. $2 is the
-- role that queries run as, $3 the one that queries run as of those who see only what is
-- their own; empty where there is none.
WITH relation AS (
    SELECT c.oid, c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relowner, c.reloptions,
           coalesce(obj_description(c.oid, 'pg_class'), '') LIKE 'open: _%' AS said_open,
           EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attname = 'account_id' AND NOT a.attisdropped) AS of_account,
           EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attname = 'principal_id' AND NOT a.attisdropped) AS of_principal,
           CASE WHEN $3::text <> '' THEN has_any_column_privilege($3::text, c.oid, 'SELECT') ELSE false END AS own_reads
    FROM pg_class c
    WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
),
policy AS (
    SELECT p.polrelid, p.polname,
           coalesce(pg_get_expr(p.polqual, p.polrelid), '') AS qual,
           coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') AS written
    FROM pg_policy p
    WHERE p.polpermissive
),
own AS (
    SELECT p.polrelid, coalesce(pg_get_expr(p.polqual, p.polrelid), '') AS qual
    FROM pg_policy p
    WHERE NOT p.polpermissive AND p.polroles = ARRAY(SELECT oid FROM pg_roles WHERE rolname = 'cetrus_own')
)
SELECT relname, 'row-level security is not enabled' FROM relation
WHERE relkind IN ('r', 'p') AND NOT relrowsecurity
UNION ALL
SELECT relname, 'row-level security is not forced on its owner' FROM relation
WHERE relkind IN ('r', 'p') AND NOT relforcerowsecurity
UNION ALL
SELECT relname, 'it has no policy' FROM relation
WHERE relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM policy WHERE polrelid = oid)
UNION ALL
SELECT relname, format('its policy %I lets rows of every account through: (%s)', polname, expression)
FROM relation
JOIN policy ON polrelid = oid
CROSS JOIN LATERAL (VALUES (qual), (written)) AS e (expression)
WHERE relkind IN ('r', 'p')
  AND expression NOT IN ('', 'false')
  AND expression !~ '\maccount\(\)'
  AND (of_account OR NOT said_open)
UNION ALL
SELECT relname, 'a view reads with its owner''s rights: make it WITH (security_invoker = true)' FROM relation
WHERE relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)
UNION ALL
SELECT relname, 'a materialized view or foreign table cannot be walled off' FROM relation
WHERE relkind IN ('m', 'f')
UNION ALL
SELECT relname, format('the role %I owns it', $2::text) FROM relation
WHERE relowner = (SELECT oid FROM pg_roles WHERE rolname = $2::text)
UNION ALL
SELECT $2::text, 'the role is not subject to row-level security' FROM pg_roles
WHERE rolname = $2::text AND (rolsuper OR rolbypassrls)
UNION ALL
SELECT $2::text, format('the role is a member of %I', r.rolname)
FROM pg_auth_members m
JOIN pg_roles q ON q.oid = m.member
JOIN pg_roles r ON r.oid = m.roleid
WHERE q.rolname = $2::text
UNION ALL
SELECT relname, 'those who see only what is their own can read it, and nothing says which rows: SELECT cetrus.own' FROM relation
WHERE own_reads AND (of_account OR NOT said_open) AND NOT EXISTS (SELECT FROM own WHERE polrelid = oid)
UNION ALL
SELECT relname, format('those who see only what is their own see rows of every principal: (%s)', qual) FROM relation
JOIN own ON polrelid = oid
WHERE own_reads AND of_principal AND qual !~ '\mprincipals\(\)'
UNION ALL
SELECT relname, format('the role %I may do more than read it', $3::text) FROM relation
WHERE $3::text <> '' AND relkind IN ('r', 'p', 'v', 'm', 'f')
  AND CASE WHEN $3::text <> '' THEN has_table_privilege($3::text, oid, 'INSERT, UPDATE, DELETE, TRUNCATE') ELSE false END
UNION ALL
SELECT $3::text, 'the role is not subject to row-level security' FROM pg_roles
WHERE rolname = $3::text AND (rolsuper OR rolbypassrls)
UNION ALL
SELECT $3::text, format('the role is a member of %I', r.rolname)
FROM pg_auth_members m
JOIN pg_roles q ON q.oid = m.member
JOIN pg_roles r ON r.oid = m.roleid
WHERE q.rolname = $3::text AND r.rolname <> 'cetrus_own'
ORDER BY 1, 2;
