-- What SQLite says differently: its one write lock is every row's lock.

-- name: now
SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000;

-- name: key_select
SELECT fingerprint, owner, lease_until_us, claims, result, expires_us
FROM postroad_keys WHERE id = ?;

-- name: token_select
SELECT content, redeemed_us, expires_us FROM postroad_tokens WHERE id = ?;

-- name: scope_now
SELECT id FROM postroad_readers WHERE name = ? AND topic = '';
