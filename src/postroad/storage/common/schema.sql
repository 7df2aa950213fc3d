-- name: version
SELECT value FROM postroad_meta WHERE name = 'version';

-- name: set_version
INSERT INTO postroad_meta (name, value) VALUES ('version', ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: in_use
SELECT owner FROM postroad_sessions WHERE lease_until_us > ? ORDER BY id;
