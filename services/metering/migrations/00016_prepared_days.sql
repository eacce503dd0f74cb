-- +goose Up

-- What instances of an application did on a day of UTC, put together so that it is read at once
-- (preparedday.go). It tells of many people: those who see only what is their own do not see it.
CREATE TABLE prepared_day (
    account_id uuid NOT NULL,
    day int4 NOT NULL,
    application_id uuid NOT NULL,
    uses bytea NOT NULL,
    PRIMARY KEY (account_id, day, application_id)
);
SELECT cetrus.wall('prepared_day');
-- Ids and milliseconds are as good as random: to try to make less of them costs time only.
ALTER TABLE prepared_day ALTER COLUMN uses SET STORAGE EXTERNAL;

-- The days of which the intervals answer and no prepared day, which may be there and out of date.
-- taken is who prepares it; whatever is counted into it meanwhile takes that away.
CREATE TABLE unprepared_day (
    account_id uuid NOT NULL,
    day int4 NOT NULL,
    application_id uuid NOT NULL,
    taken int8,
    PRIMARY KEY (account_id, day, application_id)
);
SELECT cetrus.wall('unprepared_day');

-- Nothing of what is there is prepared.
INSERT INTO unprepared_day (account_id, day, application_id)
SELECT DISTINCT n.account_id, d.day, n.application_id
FROM instance AS n CROSS JOIN LATERAL generate_series((n.opened_ms / 86400000)::int4, n.last_day) AS d (day);
