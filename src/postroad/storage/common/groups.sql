-- name: subscription_insert
INSERT INTO postroad_subscriptions (name, source, created_us) VALUES (?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: subscriptions
SELECT name, source FROM postroad_subscriptions;

-- name: group
SELECT id, since_us, carried FROM postroad_groups WHERE topic_id = ? AND name = ?;

-- name: group_insert
INSERT INTO postroad_groups (topic_id, name, since_us) VALUES (?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: group_restart
UPDATE postroad_groups SET since_us = ?, carried = ? WHERE id = ?;

-- name: groups
SELECT t.name, g.name, g.id, t.id
FROM postroad_groups g JOIN postroad_topics t ON t.id = g.topic_id ORDER BY t.name, g.name;

-- name: ends
SELECT id, part, priority, first_offset, next_offset, published
FROM postroad_streams WHERE topic_id = ?;

-- name: cursor_set
INSERT INTO postroad_cursors (group_id, stream_id, next_offset, base) VALUES (?, ?, ?, ?)
ON CONFLICT (group_id, stream_id)
DO UPDATE SET next_offset = excluded.next_offset, base = excluded.base;

-- name: cursor_advance
INSERT INTO postroad_cursors (group_id, stream_id, next_offset, base) VALUES (?, ?, ?, 0)
ON CONFLICT (group_id, stream_id) DO UPDATE SET next_offset = excluded.next_offset;

-- name: unread
SELECT s.id, s.part, s.priority, CASE WHEN s.first_offset > coalesce(c.next_offset, 0) THEN s.first_offset
            ELSE coalesce(c.next_offset, 0) END, s.next_offset
FROM postroad_streams s
LEFT JOIN postroad_cursors c ON c.group_id = ? AND c.stream_id = s.id
WHERE s.topic_id = ? AND s.next_offset > coalesce(c.next_offset, 0);

-- name: standing
SELECT s.id, s.part, s.priority, s.first_offset, s.next_offset, s.published,
       coalesce(c.next_offset, 0), coalesce(c.base, 0)
FROM postroad_streams s
LEFT JOIN postroad_cursors c ON c.group_id = ? AND c.stream_id = s.id
WHERE s.topic_id = ? ORDER BY s.part, s.priority;

-- name: count
INSERT INTO postroad_counters (group_id, outcome, count) VALUES (?, ?, ?)
ON CONFLICT (group_id, outcome) DO UPDATE SET count = postroad_counters.count + excluded.count;

-- name: counters
SELECT outcome, count FROM postroad_counters WHERE group_id = ?;

-- name: forget_counters
DELETE FROM postroad_counters WHERE group_id = ?;

-- name: forget_claims
DELETE FROM postroad_claims WHERE group_id = ?;

-- name: forget_retries
DELETE FROM postroad_retries WHERE group_id = ? AND EXISTS (
    SELECT 1 FROM postroad_messages
    WHERE position = postroad_retries.stream_id << 40 | postroad_retries.log_offset);

-- name: unpark_lanes
UPDATE postroad_dead_letters SET parks = 0 WHERE group_id = ? AND parks = 1;

-- name: wake_lines
UPDATE postroad_retries SET due_us = 0 WHERE group_id = ? AND session_id IS NULL
    AND due_us = 4611686018427387904;

-- name: retries_count
SELECT count(*) FROM postroad_retries WHERE group_id = ?;

-- name: dead_count
SELECT count(*) FROM postroad_dead_letters WHERE group_id = ?;
