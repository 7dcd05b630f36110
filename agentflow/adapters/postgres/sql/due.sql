SELECT execution_id, wake_at FROM timer WHERE shard = ANY ($1::smallint[]) AND wake_at <= $2 ORDER BY wake_at LIMIT $3
