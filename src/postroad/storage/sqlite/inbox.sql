-- name: expire
DELETE FROM postroad_inbox WHERE reader_id = ?1 AND message IN
    (SELECT message FROM postroad_inbox WHERE reader_id = ?1 AND at_us < ?2
     ORDER BY at_us LIMIT ?3);

-- name: fence
SELECT 1 FROM postroad_sessions WHERE id = ?;
