-- The claim that holds: ours if there was none. (A second try reads what the first insert lost against.)
WITH fresh AS (
    INSERT INTO idempotency_claim (tenant_id, operation, key, body_hash, execution_id) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (tenant_id, operation, key) DO NOTHING RETURNING execution_id, body_hash
)
SELECT execution_id, body_hash, true AS fresh FROM fresh
UNION ALL
SELECT execution_id, body_hash, false FROM idempotency_claim WHERE tenant_id = $1 AND operation = $2 AND key = $3
LIMIT 1
