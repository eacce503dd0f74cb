-- +goose Up

-- What an account meters. definition is a serialized ApplicationDefined; a deleted
-- application stays for the names in its reports.
CREATE TABLE application (
    account_id uuid NOT NULL,
    application_id uuid NOT NULL,
    display_name text NOT NULL,
    definition bytea NOT NULL,
    revision int NOT NULL,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL,
    deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account_id, application_id)
);
SELECT cetrus.wall('application');

CREATE TABLE settings (
    account_id uuid PRIMARY KEY,
    time_zone text NOT NULL,
    pause_allowed boolean NOT NULL,
    sightings_wanted boolean NOT NULL,
    paused boolean NOT NULL
);
SELECT cetrus.wall('settings');

-- Every interval that was decided, with the event that made it. document_id is
-- NULL for an interval of the instance as a whole. Times are milliseconds of UTC;
-- epoch is the agent's uint64 as the int8 of the same bits.
CREATE TABLE interval (
    account_id uuid NOT NULL,
    instance_id uuid NOT NULL,
    from_ms int8 NOT NULL,
    to_ms int8 NOT NULL,
    epoch int8 NOT NULL,
    seq int8 NOT NULL,
    position int8 NOT NULL,
    attention int2 NOT NULL,
    state int2 NOT NULL,
    reason int2 NOT NULL,
    session_access int2 NOT NULL,
    event_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    document_id uuid
);
SELECT cetrus.wall('interval');
-- The account stands last, for the wall's own condition: an instance's id is
-- random and enough to find it.
CREATE INDEX interval_of_instance ON interval (instance_id, from_ms);

-- One run of one application, with its time over its whole life. Its documents are
-- not in it. last_day is the UTC day of decided_ms: it is indexed in its place, so
-- that most updates stay on their page and touch no index. session_accesses is a bit set
-- of the numbers of SessionAccess that its intervals had.
CREATE TABLE instance (
    account_id uuid NOT NULL,
    instance_id uuid NOT NULL,
    application_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    session_id uuid NOT NULL,
    opened_ms int8 NOT NULL,
    closed_ms int8,
    decided_ms int8 NOT NULL,
    last_day int4 NOT NULL,
    lost boolean NOT NULL,
    session_accesses int2 NOT NULL,
    suspended_ms int8 NOT NULL,
    unknown_ms int8 NOT NULL,
    paused_ms int8 NOT NULL,
    away_ms int8 NOT NULL,
    busy_ms int8 NOT NULL,
    idle_ms int8 NOT NULL,
    background_ms int8 NOT NULL,
    timeouts int8 NOT NULL,
    instances int8 NOT NULL,
    -- The account stands last for the same reason, and as adding to a row must not
    -- be led by an index that begins with it.
    PRIMARY KEY (instance_id, account_id)
) WITH (fillfactor = 75);
SELECT cetrus.wall('instance');
CREATE INDEX instance_opened ON instance (account_id, opened_ms);
CREATE INDEX instance_last_day ON instance (account_id, last_day);
-- Person time asks person by person.
CREATE INDEX instance_of_principal ON instance (account_id, principal_id, last_day);

-- The documents of each instance, with their time over its whole life. closed_ms is
-- when it last closed: it is open again where decided_ms is greater. recognised is
-- confidence * 128 + source of its surest opening.
CREATE TABLE document (
    account_id uuid NOT NULL,
    instance_id uuid NOT NULL,
    document_id uuid NOT NULL,
    opened_ms int8 NOT NULL,
    closed_ms int8,
    decided_ms int8 NOT NULL,
    recognised int2 NOT NULL,
    unsaved boolean NOT NULL,
    suspended_ms int8 NOT NULL,
    unknown_ms int8 NOT NULL,
    paused_ms int8 NOT NULL,
    away_ms int8 NOT NULL,
    busy_ms int8 NOT NULL,
    idle_ms int8 NOT NULL,
    background_ms int8 NOT NULL,
    timeouts int8 NOT NULL,
    instances int8 NOT NULL,
    PRIMARY KEY (account_id, instance_id, document_id)
) WITH (fillfactor = 75);
SELECT cetrus.wall('document');

-- How a document was recognised where it was most surely, in whichever instance. It is no
-- index of document: that would be taken for adding to it.
CREATE TABLE recognised_document (
    account_id uuid NOT NULL,
    document_id uuid NOT NULL,
    recognised int2 NOT NULL,
    unsaved boolean NOT NULL,
    PRIMARY KEY (account_id, document_id)
);
SELECT cetrus.wall('recognised_document');

-- Time by attention of instances. level 0 is the quarter-hour, 1 the hour, 2 the
-- UTC day, 3 are 16 days; quarter numbers quarter-hours of UTC from 1970 and is
-- where the row begins. The person comes early in the key: a page of
-- people, or a filter, reads their rows only, at every level.
CREATE TABLE cell (
    account_id uuid NOT NULL,
    level int2 NOT NULL,
    quarter int4 NOT NULL,
    principal_id uuid NOT NULL,
    application_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    suspended_ms int8 NOT NULL,
    unknown_ms int8 NOT NULL,
    paused_ms int8 NOT NULL,
    away_ms int8 NOT NULL,
    busy_ms int8 NOT NULL,
    idle_ms int8 NOT NULL,
    background_ms int8 NOT NULL,
    timeouts int8 NOT NULL,
    instances int8 NOT NULL,
    PRIMARY KEY (account_id, level, principal_id, quarter, application_id, machine_id)
) WITH (fillfactor = 75);
SELECT cetrus.wall('cell');

-- The same of documents.
CREATE TABLE document_cell (
    account_id uuid NOT NULL,
    level int2 NOT NULL,
    quarter int4 NOT NULL,
    principal_id uuid NOT NULL,
    application_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    document_id uuid NOT NULL,
    suspended_ms int8 NOT NULL,
    unknown_ms int8 NOT NULL,
    paused_ms int8 NOT NULL,
    away_ms int8 NOT NULL,
    busy_ms int8 NOT NULL,
    idle_ms int8 NOT NULL,
    background_ms int8 NOT NULL,
    timeouts int8 NOT NULL,
    instances int8 NOT NULL,
    PRIMARY KEY (account_id, level, principal_id, quarter, application_id, machine_id, document_id)
) WITH (fillfactor = 75);
SELECT cetrus.wall('document_cell');

-- The same of a whole account by application, for totals and for what is grouped by
-- time and application only. documents tells which of the two is added up.
CREATE TABLE application_cell (
    account_id uuid NOT NULL,
    level int2 NOT NULL,
    quarter int4 NOT NULL,
    documents boolean NOT NULL,
    application_id uuid NOT NULL,
    suspended_ms int8 NOT NULL,
    unknown_ms int8 NOT NULL,
    paused_ms int8 NOT NULL,
    away_ms int8 NOT NULL,
    busy_ms int8 NOT NULL,
    idle_ms int8 NOT NULL,
    background_ms int8 NOT NULL,
    timeouts int8 NOT NULL,
    instances int8 NOT NULL,
    PRIMARY KEY (account_id, documents, level, quarter, application_id)
) WITH (fillfactor = 60);
SELECT cetrus.wall('application_cell');

-- Who has used which machine.
CREATE TABLE principal_machine (
    account_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    PRIMARY KEY (account_id, principal_id, machine_id)
);
SELECT cetrus.wall('principal_machine');

CREATE TABLE machine (
    account_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    host_name text NOT NULL,
    operating_system text NOT NULL,
    agent_version text NOT NULL,
    stored_ms int8 NOT NULL,
    PRIMARY KEY (account_id, machine_id)
) WITH (fillfactor = 75);
SELECT cetrus.wall('machine');

-- Names as the Manager sealed them. document_id is all zero for the person's own.
CREATE TABLE sealed_name (
    account_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    document_id uuid NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (account_id, document_id, principal_id)
);
SELECT cetrus.wall('sealed_name');

-- How agents' frames came.
CREATE TABLE agent (
    account_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    machine_id uuid NOT NULL,
    received_ms int8 NOT NULL,
    skew_ms int8 NOT NULL,
    -- Records that came, however often, and the usage events that were new.
    records int8 NOT NULL,
    events int8 NOT NULL,
    PRIMARY KEY (account_id, agent_id)
) WITH (fillfactor = 50);
SELECT cetrus.wall('agent');
