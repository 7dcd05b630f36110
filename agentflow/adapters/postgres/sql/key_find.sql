SELECT tenant_id, principal, role, any_mount FROM api_key WHERE key_hash = $1
