-- +goose Up

-- A keyed hash of where the link was mailed to and of how often its login had been disabled: it is good
-- while both are so. Empty: it is of a release before this one.
ALTER TABLE reset_link ADD COLUMN mailed_to bytea NOT NULL DEFAULT '';
