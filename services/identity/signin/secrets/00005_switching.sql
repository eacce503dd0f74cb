-- +goose Up

-- By which identity provider, and as whom, somebody signed in; empty: by none.
ALTER TABLE session ADD COLUMN vouched_by text NOT NULL DEFAULT '';
ALTER TABLE session ADD COLUMN vouched_as text NOT NULL DEFAULT '';

-- The session of a linked login that it was switched from, and with which it ends. It is of
-- another account, so that no key can refer to it.
ALTER TABLE session ADD COLUMN origin_account_id uuid;
ALTER TABLE session ADD COLUMN origin_login_id uuid;
ALTER TABLE session ADD COLUMN origin_session_id uuid;
ALTER TABLE session ADD CHECK ((origin_account_id IS NULL) = (origin_session_id IS NULL) AND (origin_login_id IS NULL) = (origin_session_id IS NULL));
CREATE INDEX ON session (origin_account_id, origin_login_id) WHERE origin_session_id IS NOT NULL AND ended IS NULL;
