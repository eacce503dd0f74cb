-- +goose Up

-- Files of reports that are made while nobody waits for them. They are no record: what is lost of them is made
-- again. A file is its owner's alone, also before those who see all of the account.
CREATE TABLE report_file (
    account_id uuid NOT NULL,
    report_file_id uuid NOT NULL,
    owner_login_id uuid NOT NULL,
    -- What is asked, sealed under the owner's key.
    question bytea NOT NULL,
    format int2 NOT NULL,
    -- What whoever asked for it was privileged to, and how far the file sees, once it is made.
    privileges int8 NOT NULL,
    reach int2 NOT NULL DEFAULT 0,
    state int2 NOT NULL,
    -- Whoever makes it, and until when nobody else does.
    claim uuid,
    claimed_until timestamptz,
    -- How often its making was begun; it is not begun again before.
    tries int4 NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    written_rows int8 NOT NULL DEFAULT 0,
    written_bytes int8 NOT NULL DEFAULT 0,
    parts int4 NOT NULL DEFAULT 0,
    -- NULL: it cannot be told.
    done_percent int4,
    problem int4 NOT NULL DEFAULT 0,
    detail text NOT NULL DEFAULT '',
    created timestamptz NOT NULL DEFAULT now(),
    begun timestamptz,
    ended timestamptz,
    expires timestamptz NOT NULL,
    PRIMARY KEY (account_id, report_file_id)
);
SELECT cetrus.wall('report_file');
SELECT cetrus.own('report_file', 'owner_login_id = (SELECT cetrus.login())');
CREATE INDEX report_file_of_login ON report_file (account_id, owner_login_id, created, report_file_id);
CREATE INDEX report_file_by_state ON report_file (state, not_before);
CREATE INDEX report_file_by_end ON report_file (expires);

-- What a file holds, in parts, each sealed under the owner's key.
CREATE TABLE report_file_part (
    account_id uuid NOT NULL,
    report_file_id uuid NOT NULL,
    part int4 NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (account_id, report_file_id, part),
    FOREIGN KEY (account_id, report_file_id) REFERENCES report_file ON DELETE CASCADE
);
-- What is sealed does not become smaller.
ALTER TABLE report_file_part ALTER COLUMN content SET STORAGE EXTERNAL;
SELECT cetrus.wall('report_file_part');
SELECT cetrus.own('report_file_part', 'report_file_id IN (SELECT f.report_file_id FROM report_file AS f WHERE f.account_id = (SELECT cetrus.account()))');
