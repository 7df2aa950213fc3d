-- name: origin_insert
INSERT INTO postroad_origins (id, type, source, content_type, data_schema) VALUES (?, ?, ?, ?, ?)
ON DUPLICATE KEY UPDATE id = VALUES(id);

-- A row that is there has to change, else it counts as one that was inserted.
-- name: once_insert
INSERT INTO postroad_once (token, at_us) VALUES (?, ?)
ON DUPLICATE KEY UPDATE at_us = postroad_once.at_us + 1;

-- name: once_expire
DELETE FROM postroad_once WHERE at_us < ? LIMIT 100;

-- name: permits_set
INSERT INTO postroad_permits (name, tokens, at_us) VALUES (?, ?, ?)
ON DUPLICATE KEY UPDATE tokens = VALUES(tokens), at_us = VALUES(at_us);
