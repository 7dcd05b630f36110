SELECT kind, name, uses, body FROM catalogue_entry WHERE tenant_id = $1 AND kind = $2 ORDER BY name, uses
