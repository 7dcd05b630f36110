SELECT execution_id FROM execution WHERE status = 'running' AND shard = ANY ($1::smallint[]) ORDER BY started_at, execution_id
