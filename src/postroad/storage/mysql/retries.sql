-- An UPDATE whose subquery reads the same table walks all of it here; a join does not.
-- name: hush
UPDATE postroad_retries r JOIN (
    SELECT number FROM postroad_retries
    WHERE group_id = ?1 AND stream_id = ?2 AND lane = ?3 AND session_id IS NULL AND log_offset > ?4
    ORDER BY log_offset LIMIT 1) AS behind ON behind.number = r.number
SET r.due_us = 4611686018427387904
WHERE r.due_us <= ?5;

-- name: next_in_line
UPDATE postroad_retries r JOIN (
    SELECT number FROM postroad_retries
    WHERE group_id = ?1 AND stream_id = ?2 AND lane = ?3 AND session_id IS NULL
    ORDER BY log_offset LIMIT 1) AS first_of_all ON first_of_all.number = r.number
SET r.due_us = 0
WHERE r.due_us = 4611686018427387904
AND NOT EXISTS (
    SELECT 1 FROM postroad_dead_letters d
    WHERE d.group_id = ?1 AND d.stream_id = ?2 AND d.lane = ?3 AND d.parks = 1
        AND d.log_offset < r.log_offset);
