-- name: reader
SELECT id, window_us FROM postroad_readers WHERE name = ? AND topic = ?;

-- name: reader_insert
INSERT INTO postroad_readers
    (name, topic, window_us, cleaned_us, keeps_until_us, duplicates)
VALUES (?, ?, ?, ?, 0, 0)
ON CONFLICT DO NOTHING;

-- name: reader_window
UPDATE postroad_readers SET window_us = ? WHERE id = ?;

-- name: record
INSERT INTO postroad_inbox (reader_id, message, at_us) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: known
SELECT 1 FROM postroad_inbox WHERE reader_id = ? AND message = ?;

-- name: duplicates
UPDATE postroad_readers SET duplicates = duplicates + ? WHERE id = ?;

-- name: cleaning
SELECT window_us, cleaned_us, keeps_until_us FROM postroad_readers WHERE id = ?;

-- name: cleaned
UPDATE postroad_readers SET cleaned_us = ?, keeps_until_us = ? WHERE id = ?;

-- name: expired
SELECT 1 FROM postroad_inbox WHERE reader_id = ? AND at_us < ? LIMIT 1;

-- name: forget
DELETE FROM postroad_inbox WHERE reader_id = ?;
