-- name: tables
SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'postroad_meta';

-- name: create_meta
CREATE TABLE IF NOT EXISTS postroad_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
