-- name: due
SELECT number, stream_id, log_offset, lane, due_us, attempts, starts, alone, lost, turn, failures,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_retries
WHERE group_id = ? AND session_id IS NULL AND due_us <= ? ORDER BY due_us, stream_id, log_offset
LIMIT ?;

-- name: due_in_stream
SELECT number, stream_id, log_offset, lane, due_us, attempts, starts, alone, lost, turn, failures,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_retries r
WHERE group_id = ?1 AND stream_id = ?2 AND session_id IS NULL AND due_us <= ?3
    AND (lane IS NULL
        OR NOT EXISTS (
            SELECT 1 FROM postroad_retries e
            WHERE e.group_id = ?1 AND e.stream_id = ?2 AND e.lane = r.lane
                AND e.session_id IS NULL AND e.log_offset < r.log_offset)
        AND NOT EXISTS (
            SELECT 1 FROM postroad_dead_letters d
            WHERE d.group_id = ?1 AND d.stream_id = ?2 AND d.lane = r.lane
                AND d.log_offset < r.log_offset AND d.parks = 1))
ORDER BY due_us, log_offset LIMIT ?4;

-- name: line
SELECT number, stream_id, log_offset, lane, due_us, attempts, starts, alone, lost, turn, failures,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope, session_id
FROM postroad_retries
WHERE group_id = ? AND stream_id = ? AND lane = ? ORDER BY log_offset LIMIT ?;

-- name: first_waiting
SELECT log_offset FROM postroad_retries
WHERE group_id = ? AND stream_id = ? AND lane = ? AND session_id IS NULL ORDER BY log_offset LIMIT 1;

-- name: first_parking
SELECT min(log_offset) FROM postroad_dead_letters
WHERE group_id = ? AND stream_id = ? AND lane = ? AND parks = 1;

-- name: any_parking
SELECT 1 FROM postroad_dead_letters WHERE group_id = ? AND parks = 1 LIMIT 1;

-- name: streams
SELECT id, part, priority FROM postroad_streams WHERE topic_id = ?;

-- name: stream
SELECT part, priority FROM postroad_streams WHERE id = ?;

-- name: next_due
SELECT min(due_us) FROM postroad_retries WHERE group_id = ? AND session_id IS NULL;

-- name: take
UPDATE postroad_retries
SET session_id = ?, due_us = 0, begun = CASE WHEN starts = 0 THEN 1 ELSE 0 END, lost = 0,
    turn = turn + 1
WHERE number = ?;

-- name: insert
INSERT INTO postroad_retries
    (group_id, stream_id, log_offset, lane, due_us, session_id, attempts, starts, alone, lost,
     failures, id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
SELECT ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, ?,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_messages WHERE position = ?;

-- name: stands_behind
SELECT 1 FROM postroad_retries
WHERE group_id = ?1 AND stream_id = ?2 AND lane = ?3 AND session_id IS NULL AND log_offset < ?4
    AND due_us >= ?5 AND (due_us < 4611686018427387904 OR ?5 = 0)
UNION ALL
SELECT 1 FROM postroad_dead_letters
WHERE group_id = ?1 AND stream_id = ?2 AND lane = ?3 AND log_offset < ?4 AND parks = 1
LIMIT 1;

-- name: hush
UPDATE postroad_retries SET due_us = 4611686018427387904
WHERE due_us <= ?5 AND number = (SELECT number FROM (
    SELECT number FROM postroad_retries
    WHERE group_id = ?1 AND stream_id = ?2 AND lane = ?3 AND session_id IS NULL AND log_offset > ?4
    ORDER BY log_offset LIMIT 1) AS first_behind);

-- name: park_line
UPDATE postroad_retries SET due_us = 4611686018427387904
WHERE group_id = ? AND stream_id = ? AND lane = ? AND session_id IS NULL AND log_offset > ?
    AND due_us <> 4611686018427387904;

-- name: next_in_line
UPDATE postroad_retries SET due_us = 0
WHERE due_us = 4611686018427387904 AND number = (SELECT number FROM (
    SELECT number FROM postroad_retries
    WHERE group_id = ?1 AND stream_id = ?2 AND lane = ?3 AND session_id IS NULL
    ORDER BY log_offset LIMIT 1) AS first_of_all)
AND NOT EXISTS (
    SELECT 1 FROM postroad_dead_letters d
    WHERE d.group_id = ?1 AND d.stream_id = ?2 AND d.lane = ?3 AND d.parks = 1
        AND d.log_offset < postroad_retries.log_offset);

-- name: held
SELECT group_id, stream_id, lane, log_offset FROM postroad_retries
WHERE number = ? AND session_id = ? AND turn = ?;

-- name: again
UPDATE postroad_retries
SET session_id = NULL, due_us = ?, attempts = ?, failures = ?, starts = 0, alone = 0, begun = 0
WHERE number = ?;

-- name: delete
DELETE FROM postroad_retries WHERE number = ?;

-- name: give_back
UPDATE postroad_retries SET session_id = NULL WHERE number = ? AND session_id = ? AND turn = ?;

-- name: bury
INSERT INTO postroad_dead_letters
    (group_id, stream_id, log_offset, lane, parks, died_us, failures,
     id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
SELECT ?, ?, ?, ?, ?, ?, ?,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_messages WHERE position = ?;

-- name: bury_held
INSERT INTO postroad_dead_letters
    (group_id, stream_id, log_offset, lane, parks, died_us, failures,
     id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
SELECT group_id, stream_id, log_offset, lane, ?, ?, ?,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_retries WHERE number = ?;

-- name: standing
SELECT s.part, r.session_id IS NULL, count(*), min(r.appended_us)
FROM postroad_retries r JOIN postroad_streams s ON s.id = r.stream_id
WHERE r.group_id = ? GROUP BY 1, 2;

-- name: begin
UPDATE postroad_retries SET begun = 1 WHERE number = ? AND session_id = ? AND turn = ?;
