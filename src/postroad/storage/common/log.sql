-- name: topic
SELECT id, partitions, age_us, size, consumed FROM postroad_topics WHERE name = ?;

-- name: topic_name
SELECT name FROM postroad_topics WHERE id = ?;

-- name: topics
SELECT id, name, partitions FROM postroad_topics ORDER BY name;

-- name: topic_insert
INSERT INTO postroad_topics (name, partitions, age_us, size, consumed, created_us)
VALUES (?, ?, ?, ?, ?, ?);

-- name: topic_update
UPDATE postroad_topics SET partitions = ?, age_us = ?, size = ?, consumed = ? WHERE id = ?;

-- name: streams
SELECT part, priority, id, next_offset, last_us FROM postroad_streams WHERE topic_id = ?;

-- name: streams_lock
SELECT id, next_offset, last_us, topic_id,
       (SELECT partitions FROM postroad_topics t WHERE t.id = topic_id)
FROM postroad_streams WHERE id IN (?*) ORDER BY id FOR UPDATE;

-- name: stream_insert
INSERT INTO postroad_streams (topic_id, part, priority) VALUES (?, ?, ?);

-- name: stream_advance
UPDATE postroad_streams
SET next_offset = next_offset + ?, published = published + ?, bytes = bytes + ?, last_us = ?
WHERE id = ?;

-- name: append
INSERT INTO postroad_messages
    (position, id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: origin_insert
INSERT INTO postroad_origins (id, type, source, content_type, data_schema) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: origin
SELECT type, source, content_type, data_schema FROM postroad_origins WHERE id = ?;

-- name: schedule
INSERT INTO postroad_scheduled
    (topic_id, part, priority, due_us,
     id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: due
SELECT number, topic_id, part, priority,
       id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_scheduled WHERE due_us <= ? ORDER BY due_us, number LIMIT ?;

-- name: next_due
SELECT min(due_us) FROM postroad_scheduled;

-- name: scheduled_delete
DELETE FROM postroad_scheduled WHERE number = ?;

-- name: scheduled_cancel
DELETE FROM postroad_scheduled WHERE id = ?;

-- name: once_insert
INSERT INTO postroad_once (token, at_us) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: once_expire
DELETE FROM postroad_once WHERE token IN (SELECT token FROM postroad_once WHERE at_us < ? LIMIT 100);

-- name: permits
SELECT tokens, at_us FROM postroad_permits WHERE name = ?;

-- name: permits_set
INSERT INTO postroad_permits (name, tokens, at_us) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET tokens = excluded.tokens, at_us = excluded.at_us;

-- name: read
SELECT position, id, origin, message_key, time_us, appended_us, expires_at_us, data, envelope
FROM postroad_messages WHERE position >= ? AND position < ? ORDER BY position LIMIT ?;

-- name: appended
SELECT position, appended_us FROM postroad_messages
WHERE position >= ? AND position < ? ORDER BY position LIMIT 1;

-- name: count
SELECT count(*) FROM postroad_messages WHERE position >= ? AND position < ?;
