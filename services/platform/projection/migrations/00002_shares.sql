-- +goose Up
ALTER TABLE projection_checkpoint
    -- Everything that the stream held has been applied at least once.
    ADD COLUMN level   boolean NOT NULL DEFAULT false,
    -- Messages that were known to wait behind position, of this partition and the others of
    -- its reader, when the row was last written.
    ADD COLUMN waiting bigint  NOT NULL DEFAULT 0;

-- The processes that keep this schema's projections up to date.
CREATE TABLE projection_replica (
    -- The name that the process was given.
    instance text        PRIMARY KEY,
    -- Drawn at its start: two processes of one name know each other by it.
    run      uuid        NOT NULL,
    -- Its connections, as pg_stat_activity.application_name.
    session  text        NOT NULL,
    until    timestamptz NOT NULL
);
COMMENT ON TABLE projection_replica IS 'open: names processes, holds nothing of an account';
ALTER TABLE projection_replica ENABLE ROW LEVEL SECURITY;
ALTER TABLE projection_replica FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON projection_replica USING (false);

-- Which process reads which partition of the streams. It saves work, and guards nothing: the
-- checkpoints do.
CREATE TABLE projection_share (
    partition integer PRIMARY KEY,
    -- A projection_replica; null where nobody reads it.
    holder    text
);
COMMENT ON TABLE projection_share IS 'open: names processes, holds nothing of an account';
ALTER TABLE projection_share ENABLE ROW LEVEL SECURITY;
ALTER TABLE projection_share FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON projection_share USING (false);

-- What only one process may do at a time, and how far it is.
CREATE TABLE projection_task (
    task   text        PRIMARY KEY,
    holder text        NOT NULL,
    until  timestamptz NOT NULL,
    note   text        NOT NULL DEFAULT ''
);
COMMENT ON TABLE projection_task IS 'open: names processes, holds nothing of an account';
ALTER TABLE projection_task ENABLE ROW LEVEL SECURITY;
ALTER TABLE projection_task FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON projection_task USING (false);

-- keep_share says that a process lives, keeps what it holds, and takes what it may of what nobody
-- holds. It tells what it then holds, how many partitions are its fair share, whose place it
-- has taken, and whether another process of its name is alive. One statement, so that nobody can
-- stop in the middle of it.
-- +goose StatementBegin
CREATE FUNCTION keep_share(me text, my_run uuid, fresh boolean, partitions integer, life interval, OUT held integer[], OUT fair integer, OUT replaced text[], OUT doubled boolean)
    LANGUAGE plpgsql
    AS $$
DECLARE
    moment timestamptz;
    replicas integer;
    dead record;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true); -- what a crash takes is said again
    PERFORM pg_advisory_xact_lock(hashtext('keep_share'), hashtext(current_schema()::text));
    moment := clock_timestamp();
    SELECT NOT fresh AND r.run <> my_run INTO doubled FROM projection_replica AS r WHERE r.instance = me;
    doubled := coalesce(doubled, false);
    IF fresh THEN -- whoever had this name before is gone, though its connections may not be
        PERFORM pg_terminate_backend(a.pid) FROM pg_stat_activity AS a JOIN projection_replica AS r ON a.application_name = r.session
            WHERE r.instance = me AND r.run <> my_run AND r.session <> current_setting('application_name') AND a.usename = current_user;
    END IF;
    INSERT INTO projection_replica AS r (instance, run, session, until) VALUES (me, my_run, current_setting('application_name'), moment + life)
        ON CONFLICT (instance) DO UPDATE SET run = excluded.run, session = excluded.session, until = excluded.until;
    IF fresh THEN
        INSERT INTO projection_share (partition) SELECT generate_series(0, partitions - 1) ON CONFLICT DO NOTHING;
    END IF;

    -- What a process that is not heard of has begun would hold the rows that its successor
    -- needs for as long as its connections last: for ever where it was stopped or cut off.
    replaced := '{}';
    FOR dead IN SELECT r.instance, r.session FROM projection_replica AS r WHERE r.until < moment LOOP
        replaced := replaced || dead.instance;
        PERFORM pg_terminate_backend(a.pid) FROM pg_stat_activity AS a
            WHERE a.usename = current_user AND a.application_name = dead.session AND a.pid <> pg_backend_pid();
        UPDATE projection_share AS s SET holder = NULL WHERE s.holder = dead.instance;
        DELETE FROM projection_replica AS r WHERE r.instance = dead.instance;
    END LOOP;

    SELECT count(*) INTO replicas FROM projection_replica AS r;
    fair := (partitions + replicas - 1) / replicas; -- rounded up: nothing moves for the sake of one
    UPDATE projection_share AS s SET holder = me
        WHERE s.partition IN (
            SELECT f.partition FROM projection_share AS f WHERE f.partition < partitions AND f.holder IS NULL
            ORDER BY f.partition LIMIT greatest(0, fair - (SELECT count(*) FROM projection_share AS m WHERE m.holder = me))
        );
    SELECT coalesce(array_agg(s.partition ORDER BY s.partition), '{}') INTO held FROM projection_share AS s WHERE s.holder = me;
END
$$;
-- +goose StatementEnd
