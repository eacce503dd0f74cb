-- Tables that hold one batch on its way; temporary tables are not logged.
CREATE TEMP TABLE IF NOT EXISTS stage_cell (LIKE cell) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_document_cell (LIKE document_cell) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_application_cell (LIKE application_cell) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_instance (LIKE instance) ON COMMIT DELETE ROWS;
