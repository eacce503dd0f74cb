-- +goose Up

-- Accounts, each behind its own wall. Names of accounts and people are sealed.
CREATE TABLE account (
    account_id uuid PRIMARY KEY,
    sealed_name bytea NOT NULL,
    revision int NOT NULL,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL
);
SELECT cetrus.wall('account');

-- Which accounts there are: rows of the operator's account, which alone may list them.
CREATE TABLE account_entry (
    account_id uuid NOT NULL,
    listed_account_id uuid NOT NULL,
    created timestamptz NOT NULL,
    PRIMARY KEY (account_id, listed_account_id)
);
SELECT cetrus.wall('account_entry');
CREATE INDEX account_entry_by_age ON account_entry (account_id, created, listed_account_id);

-- privileges is a bit set of the numbers of cetrus.authz.v1.Privilege. A deleted login stays for
-- what was done in its name.
CREATE TABLE login (
    account_id uuid NOT NULL,
    login_id uuid NOT NULL,
    sealed_name bytea NOT NULL,
    sealed_display_name bytea,
    sealed_mail_address bytea,
    privileges int NOT NULL DEFAULT 0,
    disabled boolean NOT NULL DEFAULT false,
    must_change_password boolean NOT NULL DEFAULT false,
    group_ids uuid[] NOT NULL DEFAULT '{}',
    denied_application_ids uuid[] NOT NULL DEFAULT '{}',
    revision int NOT NULL,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL,
    deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account_id, login_id)
);
SELECT cetrus.wall('login');
CREATE INDEX login_by_age ON login (account_id, created, login_id);

CREATE TABLE login_link (
    account_id uuid NOT NULL,
    login_id uuid NOT NULL,
    other_account_id uuid NOT NULL,
    other_login_id uuid NOT NULL,
    PRIMARY KEY (account_id, login_id, other_account_id, other_login_id)
);
SELECT cetrus.wall('login_link');

CREATE TABLE login_group (
    account_id uuid NOT NULL,
    group_id uuid NOT NULL,
    display_name text NOT NULL,
    denied_application_ids uuid[] NOT NULL,
    revision int NOT NULL,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL,
    deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account_id, group_id)
);
SELECT cetrus.wall('login_group');

CREATE TABLE api_key (
    account_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    login_id uuid NOT NULL,
    prefix text NOT NULL,
    sealed_display_name bytea,
    privileges int NOT NULL,
    expires timestamptz NOT NULL,
    created timestamptz NOT NULL,
    revoked timestamptz,
    PRIMARY KEY (account_id, api_key_id)
);
SELECT cetrus.wall('api_key');
CREATE INDEX api_key_by_age ON api_key (account_id, created, api_key_id);
