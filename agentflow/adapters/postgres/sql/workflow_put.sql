INSERT INTO workflow (tenant_id, name, version, source, source_hash, principal) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, name, version) DO NOTHING RETURNING 1
