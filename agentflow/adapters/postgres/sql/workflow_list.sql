SELECT DISTINCT ON (name) name, version, source, created_at, principal FROM workflow
WHERE tenant_id = $1 AND name > $2
ORDER BY name, number DESC LIMIT $3
