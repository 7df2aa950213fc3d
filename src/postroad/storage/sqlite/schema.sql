-- name: tables
SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'postroad_meta';

-- name: create_meta
CREATE TABLE IF NOT EXISTS postroad_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- name: version
SELECT value FROM postroad_meta WHERE name = 'version';

-- name: set_version
INSERT INTO postroad_meta (name, value) VALUES ('version', ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: in_use
SELECT owner FROM postroad_sessions WHERE lease_until_us > ? ORDER BY id;
