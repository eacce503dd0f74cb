-- +goose Up

-- For how many days what was measured is kept; 0: for ever.
ALTER TABLE settings
    ADD COLUMN instance_days int4 NOT NULL DEFAULT 0,
    ADD COLUMN person_days int4 NOT NULL DEFAULT 0,
    ADD COLUMN total_days int4 NOT NULL DEFAULT 0;

-- Before when nothing is answered any more, in milliseconds of UTC, as was decided; 0: nothing of
-- the kind.
CREATE TABLE retention (
    account_id uuid PRIMARY KEY,
    instances_before_ms int8 NOT NULL,
    persons_before_ms int8 NOT NULL,
    totals_before_ms int8 NOT NULL
);
SELECT cetrus.wall('retention');
SELECT cetrus.own('retention', 'true');
