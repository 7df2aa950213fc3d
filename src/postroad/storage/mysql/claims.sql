-- A range that depends on the row is no range here: the head is looked up, and where there is
-- none at that very offset nobody knows since when it waits.
-- name: backlog
SELECT s.id, s.part, s.priority,
       CASE WHEN s.first_offset > coalesce(c.next_offset, 0) THEN s.first_offset
            ELSE coalesce(c.next_offset, 0) END,
       s.next_offset,
       CASE WHEN s.next_offset > coalesce(c.next_offset, 0) THEN (
           SELECT m.appended_us FROM postroad_messages m
           WHERE m.position = s.id * 1099511627776
                 + CASE WHEN s.first_offset > coalesce(c.next_offset, 0) THEN s.first_offset
                        ELSE coalesce(c.next_offset, 0) END) END,
       (SELECT min(due_us) FROM postroad_retries WHERE group_id = ?1 AND session_id IS NULL),
       EXISTS (SELECT 1 FROM postroad_claims WHERE group_id = ?1 AND session_id IS NULL),
       EXISTS (SELECT 1 FROM postroad_dead_letters WHERE group_id = ?1 AND parks = 1)
FROM postroad_streams s
LEFT JOIN postroad_cursors c ON c.group_id = ?1 AND c.stream_id = s.id
WHERE s.topic_id = ?2;
