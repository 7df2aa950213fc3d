-- Claims, retries and dead letters of business tables that are polled. The business table itself is
-- named by the user, and its statements are made in Python.

-- name: over
-- Leases that have ended and retries that are due.
SELECT number, row_key, key_kind, session, fence, turns, attempts, starts, alone, begun, failures,
    restores, since_us
FROM postroad_polled
WHERE topic = ? AND group_name = ? AND until_us <= ?
ORDER BY starts DESC, until_us, number LIMIT ? FOR UPDATE SKIP LOCKED;

-- name: claim_again
UPDATE postroad_polled
SET fence = ?, until_us = ?, turns = turns + 1, starts = ?, alone = ?, begun = ?, session = ?
WHERE number = ?;

-- name: claim_new
INSERT INTO postroad_polled
    (topic, group_name, row_key, key_kind, session, until_us, fence, turns, attempts, starts,
    alone, begun, restores, since_us)
VALUES (?, ?, ?, ?, ?, ?, ?, 1, 0, 0, 0, 1, ?, ?)
ON CONFLICT (topic, group_name, row_key) DO NOTHING;

-- name: claimed_new
SELECT row_key, number FROM postroad_polled
WHERE topic = ?1 AND group_name = ?2 AND session = ?3 AND fence = ?4 AND row_key IN (?*);

-- name: bury_over
-- A dead letter whose row was made ready again by hand is none any more.
DELETE FROM postroad_polled
WHERE topic = ?1 AND group_name = ?2 AND until_us = 4611686018427387904 AND row_key IN (?*);

-- name: forget
DELETE FROM postroad_polled WHERE number IN (?*);

-- name: held
SELECT number, fence, row_key, key_kind, restores FROM postroad_polled
WHERE session = ?1 AND number IN (?*) ORDER BY number FOR UPDATE;

-- name: held_by
SELECT number, fence, row_key, key_kind, restores FROM postroad_polled
WHERE session = ? ORDER BY number LIMIT 500 FOR UPDATE;

-- name: renew
UPDATE postroad_polled SET until_us = ?1 WHERE session = ?2 AND number IN (?*);

-- name: renewed
SELECT number, fence FROM postroad_polled WHERE session = ?1 AND number IN (?*);

-- name: begin
UPDATE postroad_polled SET begun = ?1 WHERE session = ?2 AND number IN (?*);

-- name: give_back
UPDATE postroad_polled SET session = NULL, until_us = ?, begun = 0 WHERE number = ?;

-- name: wait
UPDATE postroad_polled
SET session = NULL, until_us = ?, begun = 0, attempts = ?, failures = ? WHERE number = ?;

-- name: die
UPDATE postroad_polled
SET session = NULL, until_us = 4611686018427387904, begun = 0, attempts = ?, failures = ?,
    message = ?, since_us = ?
WHERE number = ?;

-- name: dead
SELECT number, group_name, failures, since_us, message FROM postroad_polled
WHERE topic = ? AND until_us = 4611686018427387904 ORDER BY number;

-- name: dead_held
SELECT number, fence, row_key, key_kind, restores FROM postroad_polled
WHERE topic = ?1 AND until_us = 4611686018427387904 AND number IN (?*) ORDER BY number
FOR UPDATE;

-- name: revive
UPDATE postroad_polled
SET until_us = 0, attempts = 0, failures = NULL, starts = 0, alone = 0, message = NULL,
    since_us = ?
WHERE number = ?;

-- name: unsettled
SELECT COUNT(*) FROM postroad_polled
WHERE topic = ? AND group_name = ? AND until_us < 4611686018427387904;

-- name: groups
SELECT DISTINCT group_name FROM postroad_polled WHERE topic = ?;

-- name: ran
SELECT ran_us FROM postroad_polls WHERE topic = ? AND group_name = ?;

-- name: ran_insert
INSERT INTO postroad_polls (topic, group_name, ran_us) VALUES (?, ?, ?)
ON CONFLICT (topic, group_name) DO NOTHING;

-- name: ran_update
UPDATE postroad_polls SET ran_us = ? WHERE topic = ? AND group_name = ? AND ran_us < ?;
