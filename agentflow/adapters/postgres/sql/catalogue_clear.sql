DELETE FROM catalogue_entry WHERE tenant_id = $1
