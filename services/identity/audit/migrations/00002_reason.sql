-- +goose Up

-- Why somebody did it, where the event says so: sealed under the key of whom key_id names.
ALTER TABLE audit_entry ADD COLUMN key_id uuid, ADD COLUMN sealed_reason bytea;
