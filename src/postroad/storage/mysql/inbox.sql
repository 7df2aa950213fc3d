-- name: reader_insert
INSERT IGNORE INTO postroad_readers
    (name, topic, window_us, cleaned_us, keeps_until_us, duplicates)
VALUES (?, ?, ?, ?, 0, 0);

-- name: record
INSERT IGNORE INTO postroad_inbox (reader_id, message, at_us) VALUES (?, ?, ?);

-- name: expire
DELETE FROM postroad_inbox WHERE reader_id = ? AND at_us < ? ORDER BY at_us LIMIT ?;

-- name: fence
-- Only a look: any lock of the row would keep the lease from being renewed. The record is the fence.
SELECT 1 FROM postroad_sessions WHERE id = ?;
