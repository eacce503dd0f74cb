-- +goose Up

-- Which groups logins are in now, and what groups are called, as identity decided. A login may still
-- name a group that was deleted: that one has no name.
CREATE TABLE login_group (
    account_id uuid NOT NULL,
    login_id uuid NOT NULL,
    group_id uuid NOT NULL,
    PRIMARY KEY (account_id, login_id, group_id)
);
SELECT cetrus.wall('login_group');
SELECT cetrus.own('login_group', 'login_id IN (SELECT p.login_id FROM principal AS p WHERE p.account_id = (SELECT cetrus.account()))');

CREATE TABLE group_name (
    account_id uuid NOT NULL,
    group_id uuid NOT NULL,
    display_name text NOT NULL,
    PRIMARY KEY (account_id, group_id)
);
SELECT cetrus.wall('group_name');
SELECT cetrus.own('group_name', 'group_id IN (SELECT g.group_id FROM login_group AS g WHERE g.account_id = (SELECT cetrus.account()))');

-- What sites are called, by their Managers.
CREATE TABLE site_name (
    account_id uuid NOT NULL,
    manager_id uuid NOT NULL,
    display_name text NOT NULL,
    PRIMARY KEY (account_id, manager_id)
);
SELECT cetrus.wall('site_name');
SELECT cetrus.own('site_name', 'true');

-- Through which Manager an agent's frames came last; all zero: none told. The site of a machine is
-- that of the agent on it that was heard of last.
ALTER TABLE agent ADD COLUMN manager_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
SELECT cetrus.own('agent', 'machine_id IN (SELECT p.machine_id FROM principal_machine AS p WHERE p.account_id = (SELECT cetrus.account()))');
