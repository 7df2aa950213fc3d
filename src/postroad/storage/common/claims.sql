-- name: insert
INSERT INTO postroad_claims
    (id, group_id, stream_id, first_offset, size, session_id, starts, alone, begun, lost, settled)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: returned
SELECT c.id, c.stream_id, c.first_offset, c.size, c.starts, c.alone, c.lost, c.settled,
       s.part, s.priority
FROM postroad_claims c JOIN postroad_streams s ON s.id = c.stream_id
WHERE c.group_id = ? AND c.session_id IS NULL ORDER BY c.stream_id, c.first_offset;

-- name: any_returned
SELECT 1 FROM postroad_claims WHERE group_id = ? AND session_id IS NULL LIMIT 1;

-- name: delete
DELETE FROM postroad_claims WHERE id = ?;

-- name: settle_whole
DELETE FROM postroad_claims WHERE id = ? AND session_id = ? AND settled IS NULL;

-- name: settled
SELECT settled, starts, alone FROM postroad_claims WHERE id = ? AND session_id = ?;

-- name: settle_part
UPDATE postroad_claims SET settled = ? WHERE id = ?;

-- name: give_back
UPDATE postroad_claims SET session_id = NULL, lost = lost | ? WHERE id = ? AND session_id = ?;

-- name: of_group
SELECT stream_id, first_offset, size, session_id, settled FROM postroad_claims WHERE group_id = ?;

-- name: begin
UPDATE postroad_claims SET begun = 1 WHERE id = ? AND session_id = ?;

-- name: standing
SELECT (SELECT lease_until_us FROM postroad_sessions WHERE id = ?),
       (SELECT min(due_us) FROM postroad_scheduled);

-- name: backlog
SELECT s.id, s.part, s.priority,
       CASE WHEN s.first_offset > coalesce(c.next_offset, 0) THEN s.first_offset
            ELSE coalesce(c.next_offset, 0) END,
       s.next_offset,
       CASE WHEN s.next_offset > coalesce(c.next_offset, 0) THEN (
           SELECT m.appended_us FROM postroad_messages m
           WHERE m.position >= s.id * 1099511627776
                 + CASE WHEN s.first_offset > coalesce(c.next_offset, 0) THEN s.first_offset
                        ELSE coalesce(c.next_offset, 0) END
           ORDER BY m.position LIMIT 1) END,
       (SELECT min(due_us) FROM postroad_retries WHERE group_id = ?1 AND session_id IS NULL),
       EXISTS (SELECT 1 FROM postroad_claims WHERE group_id = ?1 AND session_id IS NULL),
       EXISTS (SELECT 1 FROM postroad_dead_letters WHERE group_id = ?1 AND parks = 1)
FROM postroad_streams s
LEFT JOIN postroad_cursors c ON c.group_id = ?1 AND c.stream_id = s.id
WHERE s.topic_id = ?2;

-- name: any_for
SELECT CASE WHEN NOT EXISTS (
        SELECT 1 FROM postroad_sessions WHERE id = ?1 AND lease_until_us > ?2)
    OR EXISTS (SELECT 1 FROM postroad_scheduled WHERE due_us <= ?2)
    OR EXISTS (SELECT 1 FROM postroad_claims WHERE session_id IS NULL AND group_id IN (?*))
    OR EXISTS (
        SELECT 1 FROM postroad_retries
        WHERE session_id IS NULL AND due_us <= ?2 AND group_id IN (?*))
    OR EXISTS (
        SELECT 1 FROM postroad_groups g
        JOIN postroad_streams s ON s.topic_id = g.topic_id
        LEFT JOIN postroad_cursors c ON c.group_id = g.id AND c.stream_id = s.id
        WHERE g.id IN (?*) AND s.next_offset > coalesce(c.next_offset, 0))
THEN 1 ELSE 0 END,
(SELECT min(due_us) FROM postroad_retries WHERE session_id IS NULL AND group_id IN (?*)),
(SELECT min(due_us) FROM postroad_scheduled);
