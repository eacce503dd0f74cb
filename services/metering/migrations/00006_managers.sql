-- +goose Up

-- Where agents find the account's Managers, in the order of preference; none: not said.
ALTER TABLE settings ADD COLUMN managers text[] NOT NULL DEFAULT '{}';
