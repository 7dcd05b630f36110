-- The holder's own tokens anew. An append that still runs holds its rows FOR SHARE, so this waits for its end; one that has
-- not begun sees the new token and writes nothing.
WITH wanted AS (SELECT shard FROM shard WHERE shard = ANY ($1::smallint[]) AND holder = $2 ORDER BY shard FOR UPDATE)
UPDATE shard SET token = token + 1 FROM wanted WHERE shard.shard = wanted.shard
RETURNING shard.shard, shard.token
