-- +goose Up

-- How often the login had been disabled when the session began: one from before is over.
ALTER TABLE session ADD COLUMN disablings integer NOT NULL DEFAULT 0;
