-- +goose Up
CREATE TABLE thing (
    account_id uuid NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (account_id, name)
);
SELECT cetrus.wall('thing');
