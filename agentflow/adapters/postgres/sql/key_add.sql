INSERT INTO api_key (key_hash, tenant_id, principal, role, any_mount) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
