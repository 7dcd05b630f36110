-- Newest first; $4 is the last id of the page before. What failed says why, from its last line.
SELECT x.*, last.kind AS last_kind, last.body AS last_body
FROM execution x LEFT JOIN event last ON last.execution_id = x.execution_id AND last.seq = x.end_seq AND x.status = 'failed'
WHERE x.tenant_id = $1 AND ($2::text IS NULL OR x.workflow = $2) AND ($3::text IS NULL OR x.status = $3)
  AND x.execution_id < coalesce($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY x.execution_id DESC LIMIT $5
