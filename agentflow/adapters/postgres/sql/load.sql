SELECT e.execution_id, e.seq, e.at, e.kind, e.body, coalesce(e.value, v.value) AS value
FROM event e LEFT JOIN stored_value v ON v.tenant_id = e.tenant_id AND v.hash = e.value_hash
WHERE e.execution_id = ANY ($1::uuid[])
ORDER BY e.execution_id, e.seq
