INSERT INTO catalogue_entry (tenant_id, kind, name, uses, body)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::bytea[])
