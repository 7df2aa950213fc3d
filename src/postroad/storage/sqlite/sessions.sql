-- What SQLite says differently: its one write lock is every row's lock.

-- name: ended
SELECT id FROM postroad_sessions WHERE name = ? AND lease_until_us <= ?;
