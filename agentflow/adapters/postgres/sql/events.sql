-- A page of lines, cut where the values' sizes add up to more than $5 bytes (but never before the first line).
SELECT seq, at, kind, body, value FROM (
    SELECT e.seq, e.at, e.kind, e.body, coalesce(e.value, v.value) AS value,
           sum(coalesce(length(e.value), length(v.value), 0)) OVER (ORDER BY e.seq) AS bytes,
           row_number() OVER (ORDER BY e.seq) AS place
    FROM event e LEFT JOIN stored_value v ON v.tenant_id = e.tenant_id AND v.hash = e.value_hash
    WHERE e.tenant_id = $1 AND e.execution_id = $2 AND e.seq > $3 AND e.seq <= $3 + $4
) page WHERE bytes <= $5 OR place = 1
ORDER BY seq
