-- +goose Up
CREATE TABLE principal_key (
    account_id   uuid NOT NULL,
    principal_id uuid NOT NULL,
    -- The Manager that drew the principal and its key.
    manager_id   uuid NOT NULL,
    -- Which key-encryption key wraps it: the first 8 bytes of its SHA-256.
    wrapping     bytea NOT NULL,
    -- 24-byte nonce, then ciphertext; null once the principal is forgotten. The
    -- row stays, so that a repeated deposit does not bring the key back.
    wrapped      bytea,
    deposited    timestamptz NOT NULL DEFAULT now(),
    forgotten    timestamptz,
    PRIMARY KEY (account_id, principal_id),
    CHECK ((wrapped IS NULL) = (forgotten IS NOT NULL))
);
SELECT cetrus.wall('principal_key');
