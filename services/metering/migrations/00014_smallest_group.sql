-- +goose Up

-- How many people must be behind a figure that is told to who sees nobody's use but their own.
ALTER TABLE settings ADD COLUMN smallest_group int4 NOT NULL DEFAULT 5;
