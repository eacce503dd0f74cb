-- +goose Up

-- What people are asked about projects, and what rules answer for them: a serialized
-- cetrus.policy.v1.ExpenseToProject.
CREATE TABLE expense_to_project (
    account_id uuid PRIMARY KEY,
    settings bytea NOT NULL
);
SELECT cetrus.wall('expense_to_project');
