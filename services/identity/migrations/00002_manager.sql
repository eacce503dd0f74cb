-- +goose Up
CREATE TABLE manager (
    account_id uuid NOT NULL,
    manager_id uuid NOT NULL,
    display_name text NOT NULL,
    created timestamptz NOT NULL,
    enrolled timestamptz,
    revoked timestamptz,
    PRIMARY KEY (account_id, manager_id)
);
SELECT cetrus.wall('manager');
CREATE INDEX manager_by_age ON manager (account_id, created, manager_id);
