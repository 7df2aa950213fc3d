-- What MySQL and MariaDB say differently: no ON CONFLICT, no LIMIT in a subquery of a DELETE.

-- name: now
SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6));

-- name: key_insert
-- A duplicate's row is locked for writing at once. INSERT IGNORE would lock it for reading, and two
-- that then want to write would wait for each other.
INSERT INTO postroad_keys
    (id, scope, fingerprint, owner, lease_until_us, claims, expires_us)
VALUES (?, ?, ?, ?, ?, 1, ?)
ON DUPLICATE KEY UPDATE id = id;

-- name: key_purge
DELETE FROM postroad_keys
WHERE expires_us <= ?1 AND (lease_until_us IS NULL OR lease_until_us <= ?1)
ORDER BY expires_us LIMIT ?2;

-- name: token_purge
DELETE FROM postroad_tokens WHERE expires_us <= ? ORDER BY expires_us LIMIT ?;

-- name: scope_insert
INSERT INTO postroad_readers
    (name, topic, window_us, cleaned_us, keeps_until_us, duplicates)
VALUES (?, '', ?, ?, 0, 0)
ON DUPLICATE KEY UPDATE duplicates = duplicates;
