-- +goose Up

-- What an identity provider keeps by SCIM. What it says of a person is sealed; what it calls them
-- is found by a keyed hash.
ALTER TABLE login ADD COLUMN provisioned boolean NOT NULL DEFAULT false, ADD COLUMN sealed_person bytea, ADD COLUMN reference_hash uuid;
CREATE INDEX login_by_reference ON login (account_id, reference_hash) WHERE reference_hash IS NOT NULL;
ALTER TABLE login_group ADD COLUMN provisioned boolean NOT NULL DEFAULT false, ADD COLUMN provider_reference text NOT NULL DEFAULT '';
