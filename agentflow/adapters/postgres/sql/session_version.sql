SELECT version FROM session WHERE tenant_id = $1 AND agent = $2 AND session_id = $3
