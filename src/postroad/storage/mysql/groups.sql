-- name: subscription_insert
INSERT INTO postroad_subscriptions (name, source, created_us) VALUES (?, ?, ?)
ON DUPLICATE KEY UPDATE name = VALUES(name);

-- name: group_insert
INSERT INTO postroad_groups (topic_id, name, since_us) VALUES (?, ?, ?)
ON DUPLICATE KEY UPDATE name = VALUES(name);

-- name: cursor_set
INSERT INTO postroad_cursors (group_id, stream_id, next_offset, base) VALUES (?, ?, ?, ?)
ON DUPLICATE KEY UPDATE next_offset = VALUES(next_offset), base = VALUES(base);

-- name: cursor_advance
INSERT INTO postroad_cursors (group_id, stream_id, next_offset, base) VALUES (?, ?, ?, 0)
ON DUPLICATE KEY UPDATE next_offset = VALUES(next_offset);

-- name: count
INSERT INTO postroad_counters (group_id, outcome, count) VALUES (?, ?, ?)
ON DUPLICATE KEY UPDATE count = count + VALUES(count);
