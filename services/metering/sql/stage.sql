-- Tables that hold one batch on its way; temporary tables are not logged. n numbers
-- the batch's rows.
CREATE TEMP TABLE IF NOT EXISTS stage_cell (n int4 NOT NULL, LIKE cell) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_document_cell (n int4 NOT NULL, LIKE document_cell) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_application_cell (n int4 NOT NULL, LIKE application_cell) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_document (n int4 NOT NULL, LIKE document) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_instance (n int4 NOT NULL, LIKE instance) ON COMMIT DELETE ROWS;
-- A batch's rows are found by their keys, one after the other in the key's order.
-- The planner knows nothing of a table that was just filled, and would sometimes
-- read all of the other to find them.
SET LOCAL enable_hashjoin TO off;
SET LOCAL enable_mergejoin TO off;
