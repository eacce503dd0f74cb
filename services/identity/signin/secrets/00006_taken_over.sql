-- +goose Up

-- A mailed link has set it, and nobody has signed in with it yet.
ALTER TABLE password ADD COLUMN by_link boolean NOT NULL DEFAULT false;
