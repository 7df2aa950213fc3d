-- name: topics
SELECT id, age_us, size, consumed FROM postroad_topics
WHERE age_us IS NOT NULL OR size IS NOT NULL OR consumed = 1;

-- name: streams
SELECT id, first_offset, next_offset, bytes, part, priority
FROM postroad_streams WHERE topic_id = ?;

-- name: groups
SELECT g.id, coalesce(c.next_offset, 0)
FROM postroad_groups g
LEFT JOIN postroad_cursors c ON c.group_id = g.id AND c.stream_id = ?
WHERE g.topic_id = ?;

-- name: group_names
SELECT name FROM postroad_groups WHERE topic_id = ? ORDER BY name;

-- name: claimed
SELECT min(first_offset) FROM postroad_claims WHERE stream_id = ?;

-- name: weigh
SELECT position, length(data) FROM postroad_messages WHERE position >= ? AND position < ?
ORDER BY position;

-- name: delete
DELETE FROM postroad_messages WHERE position >= ? AND position < ?;

-- name: trim
UPDATE postroad_streams SET first_offset = ?, bytes = bytes - ? WHERE id = ?;
