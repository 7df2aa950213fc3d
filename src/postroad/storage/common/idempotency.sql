-- Idempotency keys and tokens that are redeemed once; ids are hashes, made in Python.

-- name: key_insert
INSERT INTO postroad_keys
    (id, scope, fingerprint, owner, lease_until_us, claims, expires_us)
VALUES (?, ?, ?, ?, ?, 1, ?)
ON CONFLICT (id) DO NOTHING;

-- name: key_peek
SELECT fingerprint, owner, lease_until_us, claims, result, expires_us
FROM postroad_keys WHERE id = ?;

-- name: key_select
SELECT fingerprint, owner, lease_until_us, claims, result, expires_us
FROM postroad_keys WHERE id = ? FOR UPDATE;

-- name: key_take_over
UPDATE postroad_keys
SET fingerprint = ?, owner = ?, lease_until_us = ?, claims = ?, result = NULL, expires_us = ?
WHERE id = ?;

-- name: key_renew
UPDATE postroad_keys SET lease_until_us = ?
WHERE id = ? AND owner = ? AND lease_until_us IS NOT NULL;

-- name: key_finish
UPDATE postroad_keys SET lease_until_us = NULL, result = ?, expires_us = ?
WHERE id = ? AND owner = ? AND lease_until_us IS NOT NULL;

-- name: key_finished
SELECT 1 FROM postroad_keys WHERE id = ? AND owner = ? AND lease_until_us IS NULL;

-- name: key_release
DELETE FROM postroad_keys WHERE id = ? AND owner = ? AND lease_until_us IS NOT NULL;

-- name: key_purge
-- The outer condition is looked at again where somebody has claimed the row meanwhile.
DELETE FROM postroad_keys
WHERE expires_us <= ?1 AND (lease_until_us IS NULL OR lease_until_us <= ?1) AND id IN (
    SELECT id FROM postroad_keys
    WHERE expires_us <= ?1 AND (lease_until_us IS NULL OR lease_until_us <= ?1)
    ORDER BY expires_us LIMIT ?2);

-- name: token_insert
INSERT INTO postroad_tokens (id, purpose, content, expires_us) VALUES (?, ?, ?, ?);

-- name: token_redeem
UPDATE postroad_tokens SET redeemed_us = ?1
WHERE id = ?2 AND redeemed_us IS NULL AND expires_us > ?1;

-- name: token_select
SELECT content, redeemed_us, expires_us FROM postroad_tokens WHERE id = ? FOR UPDATE;

-- name: token_purge
DELETE FROM postroad_tokens WHERE id IN (
    SELECT id FROM postroad_tokens WHERE expires_us <= ? ORDER BY expires_us LIMIT ?);

-- name: scope_insert
INSERT INTO postroad_readers
    (name, topic, window_us, cleaned_us, keeps_until_us, duplicates)
VALUES (?, '', ?, ?, 0, 0)
ON CONFLICT DO NOTHING;

-- name: scope
SELECT id FROM postroad_readers WHERE name = ? AND topic = '';

-- name: scope_now
SELECT id FROM postroad_readers WHERE name = ? AND topic = '' FOR UPDATE;
