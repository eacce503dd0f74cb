-- +goose Up

-- What has changed of what people prove themselves with, and the log has still to be told: written
-- with the change itself, deleted once the log has it. The id is that of the command in the log.
CREATE TABLE untold (
    account_id uuid NOT NULL,
    untold_id  uuid NOT NULL,
    login_id   uuid NOT NULL,
    at         timestamptz NOT NULL,
    -- The event, as the log is to have it; origin is sealed.
    type       text NOT NULL,
    data       bytea NOT NULL,
    actor      text NOT NULL,
    origin     text NOT NULL,
    PRIMARY KEY (account_id, untold_id)
);
CREATE INDEX ON untold (at);
SELECT cetrus.wall('untold');

GRANT INSERT ON untold TO identitysecrets_query;
