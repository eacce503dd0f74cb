-- +goose Up

-- Logins that were deleted a short while ago: what a call that was under way still wrote of
-- one is deleted as well.
CREATE TABLE forgotten_login (
    account_id uuid NOT NULL,
    login_id uuid NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (account_id, login_id)
);
SELECT cetrus.wall('forgotten_login');
