-- name: columns
SELECT column_name, 0 FROM information_schema.columns
WHERE table_name = ?1 AND table_schema = COALESCE(?2, DATABASE())
ORDER BY ordinal_position;

-- name: claim_new
-- Not INSERT IGNORE, which would also cut what is too long.
INSERT INTO postroad_polled
    (topic, group_name, row_key, key_kind, session, until_us, fence, turns, attempts, starts,
    alone, begun, restores, since_us)
VALUES (?, ?, ?, ?, ?, ?, ?, 1, 0, 0, 0, 1, ?, ?)
ON DUPLICATE KEY UPDATE number = number;

-- name: ran_insert
INSERT INTO postroad_polls (topic, group_name, ran_us) VALUES (?, ?, ?)
ON DUPLICATE KEY UPDATE ran_us = ran_us;
