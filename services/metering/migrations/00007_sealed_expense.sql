-- +goose Up

-- settings is a serialized ExpenseToProjectDecided, in which names are sealed; changes counts
-- them, and is the etag.
ALTER TABLE expense_to_project ADD COLUMN changes int8 NOT NULL;
