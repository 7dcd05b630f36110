-- Shards, journal, projections, definitions. Ids are UUIDv7 whose last byte is the shard (agentflow/ids.py).

CREATE TABLE shard (
    shard smallint PRIMARY KEY,
    token bigint NOT NULL DEFAULT 0,   -- the fencing token: a takeover raises it, an append holds the row FOR SHARE
    holder text NOT NULL DEFAULT '',
    taken_at timestamptz
);
INSERT INTO shard (shard) SELECT generate_series(0, 15);

-- Bodies and values are bytea: one NUL or lone surrogate in a jsonb column would reject a whole batch.
CREATE TABLE event (
    execution_id uuid NOT NULL,
    seq integer NOT NULL,
    tenant_id text NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    body bytea NOT NULL,
    value bytea,                        -- the event's user value, unless it is stored apart
    value_hash bytea,                   -- then its SHA-256 in stored_value
    PRIMARY KEY (execution_id, seq)
) PARTITION BY RANGE (execution_id);

CREATE TABLE stored_value (
    tenant_id text NOT NULL,
    hash bytea NOT NULL,
    value bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, hash)
);

CREATE TABLE execution (
    execution_id uuid NOT NULL,
    tenant_id text NOT NULL,
    shard smallint NOT NULL,
    workflow text NOT NULL,
    version text NOT NULL,
    status text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_seq integer,
    code_hash text NOT NULL,
    session_agent text,
    session_id text,
    PRIMARY KEY (execution_id)
) PARTITION BY RANGE (execution_id);
-- what a takeover reads, and nothing else is in it
CREATE INDEX execution_running ON execution (shard, execution_id) WHERE status = 'running';
CREATE INDEX execution_by_tenant ON execution (tenant_id, execution_id DESC);
CREATE INDEX execution_by_workflow ON execution (tenant_id, workflow, execution_id DESC);

-- Default partitions take what comes before a month's own partition is there; `migrate.py` makes those ahead of time.
CREATE TABLE event_default PARTITION OF event DEFAULT;
CREATE TABLE execution_default PARTITION OF execution DEFAULT;

-- One row for each execution that waits: when it wants to be loaded again.
CREATE TABLE timer (
    execution_id uuid PRIMARY KEY,
    shard smallint NOT NULL,
    wake_at timestamptz NOT NULL
);
CREATE INDEX timer_due ON timer (shard, wake_at);

CREATE TABLE session (
    tenant_id text NOT NULL,
    agent text NOT NULL,
    session_id text NOT NULL,
    version bigint NOT NULL,
    state bytea NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, agent, session_id)
);

CREATE TABLE workflow (
    tenant_id text NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    source text NOT NULL,
    source_hash bytea NOT NULL,
    principal text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    number bigint GENERATED ALWAYS AS IDENTITY,   -- the order in which versions came; the last is the latest
    PRIMARY KEY (tenant_id, name, version)
);
CREATE INDEX workflow_latest ON workflow (tenant_id, name, number DESC);

CREATE TABLE catalogue_entry (
    tenant_id text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    uses text NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant_id, kind, uses)
);

CREATE TABLE idempotency_claim (
    tenant_id text NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    body_hash text NOT NULL,
    execution_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, operation, key)
);

CREATE TABLE api_key (
    key_hash bytea PRIMARY KEY,
    tenant_id text NOT NULL,
    principal text NOT NULL,
    role text NOT NULL CHECK (role IN ('admin', 'viewer')),
    any_mount boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Ends a statement, and with it everything it wrote, for a reason that the caller can tell from others.
CREATE FUNCTION refuse(reason text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'AF001', MESSAGE = reason;
END $$;
