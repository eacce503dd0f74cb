-- +goose Up

-- What people at the desktops are told and asked: a serialized PersonPolicy.
ALTER TABLE settings ADD COLUMN person bytea;
