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
VALUES (?, ?, ?, ?, ?, NULL, ?, 0, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: unsettled_keys
SELECT lane FROM postroad_retries WHERE group_id = ?1 AND lane IS NOT NULL
UNION
SELECT lane FROM postroad_dead_letters WHERE group_id = ?1 AND parks = 1 AND lane IS NOT NULL;

-- name: unsettled_key
SELECT EXISTS (
    SELECT 1 FROM postroad_retries r JOIN postroad_streams s ON s.id = r.stream_id
    WHERE s.topic_id = ?1 AND s.part = ?2 AND r.group_id = ?3 AND r.lane = ?4)
OR EXISTS (
    SELECT 1 FROM postroad_dead_letters d JOIN postroad_streams s ON s.id = d.stream_id
    WHERE s.topic_id = ?1 AND s.part = ?2 AND d.group_id = ?3 AND d.lane = ?4 AND d.parks = 1);

-- name: cursor
SELECT next_offset FROM postroad_cursors WHERE group_id = ? AND stream_id = ?;

-- name: dead_group
SELECT group_id, stream_id, lane, log_offset FROM postroad_dead_letters WHERE number = ?;

-- name: dead_groups
SELECT DISTINCT g.name FROM postroad_dead_letters d JOIN postroad_groups g ON g.id = d.group_id
WHERE d.number IN (?*);

-- name: redrive
INSERT INTO postroad_retries
    (group_id, stream_id, log_offset, lane, due_us, session_id, attempts, starts, lost, failures,
     id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
SELECT group_id, stream_id, log_offset, lane, ?, NULL, 0, 0, 0, NULL,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_dead_letters WHERE number = ?;

-- name: dead_delete
DELETE FROM postroad_dead_letters WHERE number = ?;
