-- name: join
INSERT INTO postroad_sessions (name, source, owner, lease_us, lease_until_us)
VALUES (?, ?, ?, ?, ?);

-- name: lease
SELECT lease_until_us FROM postroad_sessions WHERE id = ?;

-- name: exists
SELECT 1 FROM postroad_sessions WHERE id = ?;

-- name: renew
UPDATE postroad_sessions SET lease_until_us = ? WHERE id = ?;

-- name: renew_running
UPDATE postroad_sessions SET lease_until_us = ? WHERE id = ? AND lease_until_us > ?;

-- name: expired
SELECT id FROM postroad_sessions WHERE name = ? AND lease_until_us <= ?;

-- name: ended
SELECT id FROM postroad_sessions WHERE name = ? AND lease_until_us <= ?
FOR UPDATE SKIP LOCKED;

-- name: next_over
SELECT min(lease_until_us) FROM postroad_sessions WHERE name = ?;

-- What tells cheaply that nothing has changed: ids only grow, and topics stay.
-- name: glance
SELECT min(lease_until_us), max(lease_until_us - 2 * lease_us), count(*), max(id),
       (SELECT count(*) FROM postroad_topics), (SELECT sum(partitions) FROM postroad_topics)
FROM postroad_sessions WHERE name = ?;

-- name: members
SELECT id, source FROM postroad_sessions WHERE name = ? ORDER BY id;

-- name: clamp
UPDATE postroad_sessions SET lease_until_us = ?1 + lease_us
WHERE name = ?2 AND lease_until_us > ?1 + 2 * lease_us;

-- name: far
SELECT 1 FROM postroad_sessions WHERE name = ?1 AND lease_until_us > ?2 + 2 * lease_us LIMIT 1;

-- name: leave
DELETE FROM postroad_sessions WHERE id = ?;

-- name: orphan_claims
UPDATE postroad_claims
SET session_id = NULL,
    alone = alone + CASE WHEN begun = 1 AND ?1 = 1 AND size = 1 AND starts > 0 THEN 1 ELSE 0 END,
    starts = starts + CASE WHEN begun = 1 AND ?1 = 1 THEN 1 ELSE 0 END,
    begun = 0, lost = lost | ?1
WHERE session_id = ?2;

-- name: orphan_retries
UPDATE postroad_retries
SET session_id = NULL,
    alone = alone + CASE WHEN begun = 1 AND ?1 = 1 AND starts > 0 THEN 1 ELSE 0 END,
    starts = starts + CASE WHEN begun = 1 AND ?1 = 1 THEN 1 ELSE 0 END,
    begun = 0, lost = lost | ?1
WHERE session_id = ?2;

-- name: disown
DELETE FROM postroad_owners WHERE session_id = ?;

-- name: partitions
SELECT partitions FROM postroad_topics WHERE id = ?;

-- name: owners
SELECT part, session_id, revoked_us FROM postroad_owners WHERE group_id = ?;

-- name: owned
SELECT part, fence FROM postroad_owners
WHERE group_id = ? AND session_id = ? AND revoked_us IS NULL;

-- name: own
INSERT INTO postroad_owners (group_id, part, session_id, revoked_us, fence)
VALUES (?, ?, ?, NULL, ?);

-- name: revoke
UPDATE postroad_owners SET revoked_us = ? WHERE group_id = ? AND part = ?;

-- name: release
DELETE FROM postroad_owners WHERE group_id = ? AND part = ? AND session_id = ?;

-- name: release_claims
UPDATE postroad_claims SET session_id = NULL, lost = lost | ?
WHERE session_id = ? AND stream_id IN
    (SELECT id FROM postroad_streams WHERE topic_id = ? AND part = ?);

-- name: release_retries
UPDATE postroad_retries SET session_id = NULL, lost = lost | ?
WHERE session_id = ? AND stream_id IN
    (SELECT id FROM postroad_streams WHERE topic_id = ? AND part = ?);
