-- name: tables
-- With ?schema= only that one counts, not what else is in the search path.
SELECT count(*) FROM pg_class WHERE oid = to_regclass(
    coalesce(nullif(current_setting('postroad.schema', true), '') || '.', '') || 'postroad_meta');

-- name: create_meta
CREATE TABLE IF NOT EXISTS postroad_meta (name TEXT PRIMARY KEY, value BIGINT);
