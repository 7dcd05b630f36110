-- With the input (line 1) and, once it has ended, its last line.
SELECT x.*, first.body AS first_body, coalesce(first.value, first_apart.value) AS input,
       last.kind AS last_kind, last.body AS last_body, coalesce(last.value, last_apart.value) AS result
FROM execution x
JOIN event first ON first.execution_id = x.execution_id AND first.seq = 1
LEFT JOIN stored_value first_apart ON first_apart.tenant_id = first.tenant_id AND first_apart.hash = first.value_hash
LEFT JOIN event last ON last.execution_id = x.execution_id AND last.seq = x.end_seq
LEFT JOIN stored_value last_apart ON last_apart.tenant_id = last.tenant_id AND last_apart.hash = last.value_hash
WHERE x.tenant_id = $1 AND x.execution_id = $2
