-- One batch of appends, all or nothing, in one round trip and one commit.
-- $1 shards, $2 tokens: each row is held FOR SHARE, so that a takeover's UPDATE waits for us, or we see its new token.
-- (A plain EXISTS or FOR KEY SHARE leaks: the takeover reads, then the stale append commits.)
WITH held AS MATERIALIZED (
    SELECT s.shard FROM shard s JOIN unnest($1::smallint[], $2::bigint[]) AS wanted (shard, token)
        ON s.shard = wanted.shard AND s.token = wanted.token
    FOR SHARE OF s
),
fence AS MATERIALIZED (SELECT count(*) = cardinality($1::smallint[]) AS holds FROM held),
new_event AS (
    INSERT INTO event (execution_id, seq, tenant_id, at, kind, body, value, value_hash)
    SELECT e.* FROM unnest($3::uuid[], $4::integer[], $5::text[], $6::timestamptz[], $7::text[], $8::bytea[], $9::bytea[], $10::bytea[]) AS e, fence
    WHERE fence.holds
    RETURNING 1
),
new_value AS (
    INSERT INTO stored_value (tenant_id, hash, value)
    SELECT v.* FROM unnest($11::text[], $12::bytea[], $13::bytea[]) AS v, fence WHERE fence.holds
    ON CONFLICT DO NOTHING
),
new_execution AS (
    INSERT INTO execution AS x (execution_id, tenant_id, shard, workflow, version, status, started_at, ended_at, end_seq, code_hash, session_agent, session_id)
    SELECT r.* FROM unnest($14::uuid[], $15::text[], $16::smallint[], $17::text[], $18::text[], $19::text[], $20::timestamptz[], $21::timestamptz[],
                           $22::integer[], $23::text[], $24::text[], $25::text[]) AS r, fence WHERE fence.holds
    ON CONFLICT (execution_id) DO UPDATE SET status = excluded.status, ended_at = excluded.ended_at, end_seq = excluded.end_seq
),
new_timer AS (
    INSERT INTO timer (execution_id, shard, wake_at)
    SELECT t.* FROM unnest($26::uuid[], $27::smallint[], $28::timestamptz[]) AS t, fence WHERE fence.holds
    ON CONFLICT (execution_id) DO UPDATE SET wake_at = excluded.wake_at
),
old_timer AS (
    DELETE FROM timer USING fence WHERE fence.holds AND execution_id = ANY ($29::uuid[])
),
new_session AS (
    INSERT INTO session AS w (tenant_id, agent, session_id, version, state, updated_at)
    SELECT n.* FROM unnest($30::text[], $31::text[], $32::text[], $33::bigint[], $34::bytea[], $35::timestamptz[]) AS n, fence WHERE fence.holds
    ON CONFLICT (tenant_id, agent, session_id) DO UPDATE SET version = excluded.version, state = excluded.state, updated_at = excluded.updated_at
        WHERE w.version = excluded.version - 1
    RETURNING 1
)
SELECT fence.holds, CASE
    WHEN fence.holds AND (SELECT count(*) FROM new_session) <> cardinality($30::text[]) THEN refuse('session_moved')
END FROM fence
