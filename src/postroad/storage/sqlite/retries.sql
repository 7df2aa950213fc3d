-- name: due
SELECT number, stream_id, offset, attempts, starts, alone, lost, failures,
       id, origin, key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_retries
WHERE group_id = ? AND session_id IS NULL AND due_us <= ? ORDER BY due_us, stream_id, offset
LIMIT ?;

-- name: due_in_order
SELECT number, stream_id, offset, attempts, starts, alone, lost, failures,
       id, origin, key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_retries r
WHERE group_id = ?1 AND session_id IS NULL AND due_us <= ?2 AND stream_id = ?3
    AND NOT EXISTS (
        SELECT 1 FROM postroad_retries e
        WHERE e.group_id = ?1 AND e.stream_id = ?3 AND e.lane = r.lane AND e.session_id IS NULL
            AND e.offset < r.offset AND e.due_us > ?2)
ORDER BY offset LIMIT ?4;

-- name: streams
SELECT DISTINCT r.stream_id, s.partition, s.priority
FROM postroad_retries r JOIN postroad_streams s ON s.id = r.stream_id
WHERE r.group_id = ? AND r.session_id IS NULL AND r.due_us <= ?;

-- name: stream
SELECT partition, priority FROM postroad_streams WHERE id = ?;

-- name: next_due
SELECT min(due_us) FROM postroad_retries WHERE group_id = ? AND session_id IS NULL;

-- name: lanes
SELECT lane, min(offset), max(due_us) FROM postroad_retries
WHERE group_id = ? AND stream_id = ? AND lane IS NOT NULL AND session_id IS NULL GROUP BY lane;

-- name: take
UPDATE postroad_retries SET session_id = ?, begun = (starts = 0), lost = 0 WHERE number = ?;

-- name: insert
INSERT INTO postroad_retries
    (group_id, stream_id, offset, lane, due_us, session_id, attempts, starts, lost, failures,
     id, origin, key, time_us, appended_us, expires_at_us, data, envelope)
SELECT ?1, ?2, ?3, CASE ?4 WHEN 'key' THEN key WHEN 'total' THEN '' END, ?5, NULL, ?6, ?7, 0, ?8,
       id, origin, key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_messages WHERE position = ?9;

-- name: held
SELECT attempts, failures, group_id FROM postroad_retries WHERE number = ? AND session_id = ?;

-- name: again
UPDATE postroad_retries
SET session_id = NULL, due_us = ?, attempts = ?, failures = ?, starts = 0, alone = 0, begun = 0
WHERE number = ?;

-- name: delete
DELETE FROM postroad_retries WHERE number = ?;

-- name: give_back
UPDATE postroad_retries SET session_id = NULL WHERE number = ? AND session_id = ?;

-- name: bury
INSERT INTO postroad_dead_letters
    (group_id, stream_id, offset, lane, died_us, failures,
     id, origin, key, time_us, appended_us, expires_at_us, data, envelope)
SELECT ?1, ?2, ?3, CASE ?4 WHEN 'key' THEN key WHEN 'total' THEN '' END, ?5, ?6,
       id, origin, key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_messages WHERE position = ?7;

-- name: bury_held
INSERT INTO postroad_dead_letters
    (group_id, stream_id, offset, lane, died_us, failures,
     id, origin, key, time_us, appended_us, expires_at_us, data, envelope)
SELECT group_id, stream_id, offset, lane, ?, ?,
       id, origin, key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_retries WHERE number = ?;

-- name: standing
SELECT s.partition, r.session_id IS NULL, count(*), min(r.appended_us)
FROM postroad_retries r JOIN postroad_streams s ON s.id = r.stream_id
WHERE r.group_id = ? GROUP BY 1, 2;

-- name: begin
UPDATE postroad_retries SET begun = 1 WHERE number = ? AND session_id = ?;
