-- +goose Up

-- One desktop session, change by change.
CREATE INDEX instance_of_session ON instance (session_id);
