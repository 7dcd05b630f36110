-- Become the holder: whoever held these shards cannot append any more. Rows are locked in one order.
WITH wanted AS (SELECT shard FROM shard WHERE shard = ANY ($1::smallint[]) ORDER BY shard FOR UPDATE)
UPDATE shard SET token = token + 1, holder = $2, taken_at = clock_timestamp() FROM wanted WHERE shard.shard = wanted.shard
RETURNING shard.shard, shard.token
