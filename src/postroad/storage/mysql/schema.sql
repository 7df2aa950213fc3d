-- name: tables
SELECT count(*) FROM information_schema.tables
WHERE table_schema = DATABASE() AND table_name = 'postroad_meta';

-- name: create_meta
CREATE TABLE IF NOT EXISTS postroad_meta (
    name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, value BIGINT
) ENGINE=InnoDB;

-- name: set_version
INSERT INTO postroad_meta (name, value) VALUES ('version', ?)
ON DUPLICATE KEY UPDATE value = VALUES(value);
