-- +goose Up

-- Which turn of preparing has made a day: what is remembered of one is not taken for another's.
ALTER TABLE prepared_day ADD COLUMN made int8 NOT NULL DEFAULT 0;
