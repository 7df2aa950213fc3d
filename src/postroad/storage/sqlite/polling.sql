-- One writer at a time: the lock is held already.

-- name: over
SELECT number, row_key, key_kind, session, fence, turns, attempts, starts, alone, begun, failures,
    restores, since_us
FROM postroad_polled
WHERE topic = ? AND group_name = ? AND until_us <= ?
ORDER BY starts DESC, until_us, number LIMIT ?;

-- name: held
SELECT number, fence, row_key, key_kind, restores FROM postroad_polled
WHERE session = ?1 AND number IN (?*) ORDER BY number;

-- name: held_by
SELECT number, fence, row_key, key_kind, restores FROM postroad_polled
WHERE session = ? ORDER BY number LIMIT 500;

-- name: dead_held
SELECT number, fence, row_key, key_kind, restores FROM postroad_polled
WHERE topic = ?1 AND until_us = 4611686018427387904 AND number IN (?*) ORDER BY number;

-- name: columns
SELECT name, 0 FROM pragma_table_info(?, COALESCE(?, 'main'));
