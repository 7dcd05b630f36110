SELECT source_hash FROM workflow WHERE tenant_id = $1 AND name = $2 AND version = $3
