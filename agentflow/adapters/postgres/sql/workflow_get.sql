SELECT name, version, source, created_at, principal FROM workflow
WHERE tenant_id = $1 AND name = $2 AND ($3::text IS NULL OR version = $3)
ORDER BY number DESC LIMIT 1
