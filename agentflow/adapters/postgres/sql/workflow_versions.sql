SELECT name, version, source, created_at, principal FROM workflow WHERE tenant_id = $1 AND name = $2 ORDER BY number DESC
