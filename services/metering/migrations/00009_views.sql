-- +goose Up

-- Whether whoever looks at the use of named people must say why.
ALTER TABLE settings ADD COLUMN view_reason_required boolean NOT NULL DEFAULT false;
