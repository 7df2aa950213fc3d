-- Outbox: messages that were added in business transactions, to be published by a relay. `id` …
-- `payload` are what Debezium's outbox event router reads. `slice` follows from the aggregate: all
-- messages of a slice go through one relay at a time, in the order of `number`.
CREATE TABLE postroad_outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    aggregatetype TEXT NOT NULL,
    aggregateid TEXT NOT NULL,
    type TEXT NOT NULL,
    payload BLOB NOT NULL,
    source TEXT NOT NULL DEFAULT 'outbox',
    headers TEXT,
    slice INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
        DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)),
    processed_at INTEGER
);
CREATE INDEX postroad_outbox_pending ON postroad_outbox (number) WHERE processed_at IS NULL;
-- The relays at work on an outbox table; a slice belongs to its owner while the owner's lease lasts.
CREATE TABLE postroad_outbox_relays (
    outbox TEXT NOT NULL,
    owner TEXT NOT NULL,
    lease_until_us INTEGER NOT NULL,
    PRIMARY KEY (outbox, owner)
) WITHOUT ROWID;
CREATE TABLE postroad_outbox_slices (
    outbox TEXT NOT NULL,
    slice INTEGER NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (outbox, slice)
) WITHOUT ROWID;
-- Rows of an outbox table that are left alone: poison, and what waits behind it.
CREATE TABLE postroad_outbox_parked (
    outbox TEXT NOT NULL,
    row_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    aggregateid TEXT NOT NULL,
    poison INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    parked_us INTEGER NOT NULL,
    PRIMARY KEY (outbox, row_id)
) WITHOUT ROWID;
CREATE INDEX postroad_outbox_parked_poison ON postroad_outbox_parked (outbox, aggregateid)
    WHERE poison = 1;
