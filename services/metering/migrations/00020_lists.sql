-- +goose Up

-- Who has opened what at which machine, and where the last of their coarsest cells begins: a few rows for each person,
-- whatever the time that has passed.
CREATE TABLE principal_application (
    account_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    application_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    last_quarter int4 NOT NULL,
    PRIMARY KEY (account_id, principal_id, application_id, machine_id)
);
SELECT cetrus.wall('principal_application');
SELECT cetrus.own_of('principal_application');

INSERT INTO principal_application (account_id, principal_id, application_id, machine_id, last_quarter)
SELECT account_id, principal_id, application_id, machine_id, max(quarter) FROM cell WHERE level = 3
GROUP BY account_id, principal_id, application_id, machine_id;

-- Lists of runs of an application, the latest first.
CREATE INDEX instance_of_application ON instance (account_id, application_id, opened_ms);
-- Runs that lasted over midnight of UTC: who looks for what was open when a day began reads these alone.
CREATE INDEX instance_overnight ON instance (account_id, last_day) WHERE last_day <> opened_ms / 86400000;
