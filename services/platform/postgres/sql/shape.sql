-- The tables of a schema with their columns, in the order in which they were made: a table comes
-- behind those that it refers to. Histories of migrations are left out.
SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = $1::text::regnamespace
    AND c.relkind = 'r'
    AND c.relname NOT LIKE 'goose\_%'
    AND a.attnum > 0
    AND NOT a.attisdropped
    AND a.attgenerated = ''
GROUP BY c.oid, c.relname
ORDER BY c.oid
