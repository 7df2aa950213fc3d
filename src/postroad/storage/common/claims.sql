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
