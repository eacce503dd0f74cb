-- +goose Up

-- When an API key was last used, beside the log: it is no decision, and is forgotten with its login.
CREATE TABLE key_use (
    account_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    login_id uuid NOT NULL,
    last_used timestamptz NOT NULL,
    PRIMARY KEY (account_id, api_key_id)
);
SELECT cetrus.wall('key_use');
