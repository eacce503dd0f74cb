-- +goose Up

-- Whose a principal is, as was decided; one that nothing was decided about has no row.
CREATE TABLE principal (
    account_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    login_id uuid,
    merged_into uuid,
    forgotten timestamptz,
    PRIMARY KEY (account_id, principal_id)
);
SELECT cetrus.wall('principal');
CREATE INDEX principal_of_login ON principal (account_id, login_id) WHERE login_id IS NOT NULL;
CREATE INDEX principal_merged_into ON principal (account_id, merged_into) WHERE merged_into IS NOT NULL;

-- What people say is recorded wrongly about them, sealed under the key of a principal of
-- theirs.
CREATE TABLE correction (
    account_id uuid NOT NULL,
    correction_id uuid NOT NULL,
    login_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    sealed_text bytea NOT NULL,
    asked timestamptz NOT NULL,
    PRIMARY KEY (account_id, correction_id)
);
SELECT cetrus.wall('correction');
CREATE INDEX correction_by_age ON correction (account_id, asked, correction_id);
