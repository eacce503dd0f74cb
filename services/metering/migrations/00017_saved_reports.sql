-- +goose Up

-- Saved reports as they are now; what is sealed in the definition is the owner's.
CREATE TABLE saved_report (
    account_id uuid NOT NULL,
    saved_report_id uuid NOT NULL,
    owner_login_id uuid NOT NULL,
    shared bool NOT NULL,
    definition bytea NOT NULL,
    -- NULL: it is sent by hand only.
    schedule bytea,
    since timestamptz,
    last_due timestamptz,
    revision int4 NOT NULL,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL,
    PRIMARY KEY (account_id, saved_report_id)
);
SELECT cetrus.wall('saved_report');
SELECT cetrus.own('saved_report', 'owner_login_id = (SELECT cetrus.login())');
CREATE INDEX saved_report_by_age ON saved_report (account_id, created, saved_report_id);
CREATE INDEX saved_report_of_login ON saved_report (account_id, owner_login_id);
CREATE INDEX saved_report_scheduled ON saved_report (account_id) WHERE schedule IS NOT NULL;

-- What became of each time that one was sent.
CREATE TABLE report_run (
    account_id uuid NOT NULL,
    saved_report_id uuid NOT NULL,
    run_id uuid NOT NULL,
    decided bytea NOT NULL,
    begun timestamptz NOT NULL,
    -- NULL: it is under way.
    outcome bytea,
    ended timestamptz,
    PRIMARY KEY (account_id, saved_report_id, run_id)
);
SELECT cetrus.wall('report_run');
SELECT cetrus.own('report_run', 'saved_report_id IN (SELECT r.saved_report_id FROM saved_report AS r WHERE r.account_id = (SELECT cetrus.account()))');
CREATE INDEX report_run_by_age ON report_run (account_id, saved_report_id, begun, run_id);
