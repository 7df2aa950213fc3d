-- name: scheduled
SELECT count(*) FROM postroad_scheduled WHERE topic_id = ?;

-- name: topics
SELECT t.id, t.name, t.partitions, coalesce(sum(s.next_offset - s.first_offset), 0)
FROM postroad_topics t LEFT JOIN postroad_streams s ON s.topic_id = t.id
GROUP BY t.id ORDER BY t.name;

-- name: group_names
SELECT name FROM postroad_groups WHERE topic_id = ? ORDER BY name;

-- name: live
SELECT source FROM postroad_sessions WHERE name = ? AND lease_until_us > ?;

-- name: dead_letters
SELECT d.number, t.name, g.name, s.part, s.priority, d.log_offset, d.died_us, d.failures,
       d.id, d.origin, d.message_key, d.time_us, d.appended_us, d.expires_at_us, d.data, d.envelope
FROM postroad_dead_letters d
JOIN postroad_streams s ON s.id = d.stream_id
JOIN postroad_groups g ON g.id = d.group_id
JOIN postroad_topics t ON t.id = g.topic_id
ORDER BY d.appended_us, d.stream_id, d.log_offset;

-- name: dead_insert
INSERT INTO postroad_dead_letters
    (group_id, stream_id, log_offset, lane, parks, died_us, failures,
     id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: adopt
INSERT INTO postroad_retries
    (group_id, stream_id, log_offset, lane, due_us, session_id, attempts, starts, lost, failures,
     id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
SELECT ?1, ?2, ?3, ?4,
       CASE WHEN EXISTS (
           SELECT 1 FROM postroad_retries e
           WHERE e.group_id = ?1 AND e.stream_id = ?2 AND e.lane = ?4
               AND e.session_id IS NULL AND e.log_offset < ?3 AND e.due_us >= ?5
               AND (e.due_us < 1 << 62 OR ?5 = 0))
       OR EXISTS (
           SELECT 1 FROM postroad_dead_letters d
           WHERE d.group_id = ?1 AND d.stream_id = ?2 AND d.lane = ?4
               AND d.log_offset < ?3 AND d.parks)
       THEN 1 << 62 ELSE ?5 END,
       NULL, ?6, 0, 0, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15;

-- name: unsettled_keys
SELECT lane FROM postroad_retries WHERE group_id = ?1 AND lane IS NOT NULL
UNION
SELECT lane FROM postroad_dead_letters WHERE group_id = ?1 AND parks AND lane IS NOT NULL;

-- name: unsettled_key
SELECT EXISTS (
    SELECT 1 FROM postroad_retries r JOIN postroad_streams s ON s.id = r.stream_id
    WHERE s.topic_id = ?1 AND s.part = ?2 AND r.group_id = ?3 AND r.lane = ?4)
OR EXISTS (
    SELECT 1 FROM postroad_dead_letters d JOIN postroad_streams s ON s.id = d.stream_id
    WHERE s.topic_id = ?1 AND s.part = ?2 AND d.group_id = ?3 AND d.lane = ?4 AND d.parks);

-- name: cursor
SELECT next_offset FROM postroad_cursors WHERE group_id = ? AND stream_id = ?;

-- name: dead_group
SELECT group_id, stream_id, lane FROM postroad_dead_letters WHERE number = ?;

-- name: redrive
INSERT INTO postroad_retries
    (group_id, stream_id, log_offset, lane, due_us, session_id, attempts, starts, lost, failures,
     id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
SELECT group_id, stream_id, log_offset, lane,
       CASE WHEN EXISTS (
           SELECT 1 FROM postroad_retries e
           WHERE e.group_id = d.group_id AND e.stream_id = d.stream_id AND e.lane = d.lane
               AND e.session_id IS NULL AND e.log_offset < d.log_offset AND e.due_us >= ?1
               AND (e.due_us < 1 << 62 OR ?1 = 0))
       OR EXISTS (
           SELECT 1 FROM postroad_dead_letters o
           WHERE o.group_id = d.group_id AND o.stream_id = d.stream_id AND o.lane = d.lane
               AND o.log_offset < d.log_offset AND o.parks)
       THEN 1 << 62 ELSE ?1 END,
       NULL, 0, 0, 0, NULL,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_dead_letters d WHERE number = ?2;

-- name: dead_delete
DELETE FROM postroad_dead_letters WHERE number = ?;
