-- What all services share: the words for walls, and which version of each
-- service's schema answers queries. Applied at every start, so each statement
-- may find its work done.

CREATE SCHEMA IF NOT EXISTS cetrus AUTHORIZATION cetrus_owner;

SET ROLE cetrus_owner;

GRANT USAGE ON SCHEMA cetrus TO PUBLIC;

CREATE TABLE IF NOT EXISTS cetrus.active (
    service text PRIMARY KEY,
    -- Name of the schema that answers the service's queries.
    schema  text NOT NULL,
    since   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cetrus.active IS 'open: names schemas, holds nothing of an account';
ALTER TABLE cetrus.active ENABLE ROW LEVEL SECURITY;
ALTER TABLE cetrus.active FORCE ROW LEVEL SECURITY;
GRANT SELECT ON cetrus.active TO PUBLIC;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = 'cetrus' AND tablename = 'active') THEN
        CREATE POLICY readable ON cetrus.active FOR SELECT USING (true);
    END IF;
END
$$;

-- account is the account that the transaction speaks for; null where it speaks
-- for none, and then it sees no row.
CREATE OR REPLACE FUNCTION cetrus.account() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('cetrus.account', true), '')::uuid $$;

-- enter makes the transaction speak for one account, on the version of the
-- service's schema that is active now.
CREATE OR REPLACE FUNCTION cetrus.enter(of_service text, of_account uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    target text;
BEGIN
    SELECT a.schema INTO target FROM cetrus.active a WHERE a.service = of_service;
    IF target IS NULL THEN
        RAISE EXCEPTION 'no schema of the service % is active', of_service USING ERRCODE = 'undefined_object';
    END IF;
    PERFORM set_config('cetrus.account', of_account::text, true),
            set_config('search_path', quote_ident(target), true);
END
$$;

-- wall puts a table behind its account: whoever is subject to row-level
-- security sees and writes the rows of the transaction's account only. The
-- table has a column account_id.
CREATE OR REPLACE FUNCTION cetrus.wall(t regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY account ON %s USING (account_id = (SELECT cetrus.account()))', t);
END
$$;

-- principals are those that the transaction speaks for, where it sees nothing but what is
-- theirs; none where it does not say.
CREATE OR REPLACE FUNCTION cetrus.principals() RETURNS uuid[]
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce(string_to_array(nullif(current_setting('cetrus.principals', true), ''), ',')::uuid[], '{}') $$;

-- login is the one that the transaction speaks for, where it sees nothing but what is its own; null
-- where it does not say.
CREATE OR REPLACE FUNCTION cetrus.login() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('cetrus.login', true), '')::uuid $$;

-- own lets those who see only what is their own see rows of a table of the account: those for
-- which the condition holds. A table that was not given to it they do not see at all.
CREATE OR REPLACE FUNCTION cetrus.own(t regclass, condition text) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('DROP POLICY IF EXISTS own ON %s', t);
    EXECUTE format('CREATE POLICY own ON %s AS RESTRICTIVE FOR SELECT TO cetrus_own USING (%s)', t, condition);
    EXECUTE format('GRANT SELECT ON %s TO cetrus_own', t);
END
$$;

-- own_of does so for a table whose column principal_id says whose a row is.
CREATE OR REPLACE FUNCTION cetrus.own_of(t regclass) RETURNS void
    LANGUAGE sql
    AS $$ SELECT cetrus.own(t, 'principal_id = ANY ((SELECT cetrus.principals())::uuid[])') $$;

-- hide shows a table to nobody who is subject to row-level security.
CREATE OR REPLACE FUNCTION cetrus.hide(t regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('DROP POLICY IF EXISTS nobody ON %s', t);
    EXECUTE format('CREATE POLICY nobody ON %s USING (false)', t);
END
$$;

RESET ROLE;
