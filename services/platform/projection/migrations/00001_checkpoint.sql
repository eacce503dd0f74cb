-- +goose Up
CREATE TABLE projection_checkpoint (
    projection           text   NOT NULL,
    -- The set of partitions that one runner reads.
    partitions           text   NOT NULL,
    stream               text   NOT NULL,
    -- When the stream was created, nanoseconds since 1970: positions of another
    -- stream of the same name mean nothing.
    stream_created_nanos bigint NOT NULL,
    -- Everything up to here is applied.
    position             bigint NOT NULL,
    -- When the stream stored the message at position, nanoseconds since 1970: a
    -- stream that has lost its tail may hold another one there. 0 before the first.
    stored_nanos         bigint NOT NULL DEFAULT 0,
    -- Counts the transactions that have written the projection's tables.
    turn                 bigint NOT NULL DEFAULT 0,
    moved                timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, partitions)
) WITH (fillfactor = 20);
COMMENT ON TABLE projection_checkpoint IS 'open: positions in a stream, nothing of an account';
ALTER TABLE projection_checkpoint ENABLE ROW LEVEL SECURITY;
ALTER TABLE projection_checkpoint FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON projection_checkpoint FOR SELECT USING (true);
