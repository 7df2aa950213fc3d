-- What relays of an outbox keep among themselves. SQL on the outbox table itself, whose names its
-- owner gives, is put together in postroad.delivery.outbox.

-- name: expire
DELETE FROM postroad_outbox_relays WHERE outbox = ? AND lease_until_us <= ?;

-- name: renew
UPDATE postroad_outbox_relays SET lease_until_us = ? WHERE outbox = ? AND owner = ?;

-- name: join
INSERT INTO postroad_outbox_relays (outbox, owner, lease_until_us) VALUES (?, ?, ?);

-- name: leave
DELETE FROM postroad_outbox_relays WHERE outbox = ? AND owner = ?;

-- name: owners
SELECT owner FROM postroad_outbox_relays WHERE outbox = ? ORDER BY owner;

-- name: slices
SELECT slice, owner FROM postroad_outbox_slices WHERE outbox = ? ORDER BY slice;

-- name: take
INSERT INTO postroad_outbox_slices (outbox, slice, owner) VALUES (?, ?, ?);

-- name: free
DELETE FROM postroad_outbox_slices WHERE outbox = ? AND slice = ?;

-- name: any_parked
SELECT 1 FROM postroad_outbox_parked WHERE outbox = ? LIMIT 1;

-- name: poisoned
SELECT DISTINCT aggregateid FROM postroad_outbox_parked WHERE outbox = ? AND poison = 1;

-- name: parked
SELECT row_id, message_id, topic, aggregateid, poison, reason, detail, parked_us
FROM postroad_outbox_parked WHERE outbox = ? ORDER BY parked_us, row_id LIMIT ?;

-- name: count_parked
SELECT count(*), coalesce(sum(poison), 0) FROM postroad_outbox_parked WHERE outbox = ?;

-- name: aggregate_of
SELECT aggregateid FROM postroad_outbox_parked WHERE outbox = ? AND message_id = ?;

-- name: unpark_all
DELETE FROM postroad_outbox_parked WHERE outbox = ?;

-- name: unpark_aggregate
DELETE FROM postroad_outbox_parked WHERE outbox = ? AND aggregateid = ?;

-- name: unpark
DELETE FROM postroad_outbox_parked WHERE outbox = ? AND message_id = ?;
