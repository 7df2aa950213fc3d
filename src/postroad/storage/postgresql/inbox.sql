-- name: expire
DELETE FROM postroad_inbox WHERE ctid = ANY (ARRAY
    (SELECT ctid FROM postroad_inbox WHERE reader_id = ? AND at_us < ?
     ORDER BY at_us LIMIT ? FOR UPDATE SKIP LOCKED));

-- name: fence
-- Renewing the lease is an update that leaves the key alone, and goes on; a sweep wants to delete
-- the row, and passes it over.
SELECT 1 FROM postroad_sessions WHERE id = ? FOR KEY SHARE;

-- name: record_held
-- `fence`, whether the delivery is unanswered, and `record` in one round trip. Bits are numbered as
-- in the claims' `settled`: bit 0 is the lowest of the first byte.
WITH held AS (SELECT 1 FROM postroad_sessions WHERE id = ?4 FOR KEY SHARE)
INSERT INTO postroad_inbox (reader_id, message, at_us)
SELECT CAST(?1 AS bigint), CAST(?2 AS text), CAST(?3 AS bigint)
WHERE EXISTS (SELECT 1 FROM held) AND EXISTS (
    SELECT 1 FROM postroad_claims
    WHERE id = ?5 AND session_id = ?4
        AND (settled IS NULL OR get_bit(settled, CAST(?6 AS integer)) = 0))
ON CONFLICT DO NOTHING;
