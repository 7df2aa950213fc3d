-- Outbox: messages that were added in business transactions, to be published by a relay. `id` …
-- `payload` are what Debezium's outbox event router reads. `slice` follows from the aggregate: all
-- messages of a slice go through one relay at a time, in the order of `number`.
CREATE TABLE postroad_outbox (
    number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    id VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    aggregatetype VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    aggregateid VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    type VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    payload LONGBLOB NOT NULL,
    source VARCHAR(255) COLLATE utf8mb4_bin NOT NULL DEFAULT 'outbox',
    headers LONGTEXT COLLATE utf8mb4_bin,
    slice INTEGER NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL DEFAULT (CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)),
    processed_at BIGINT
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE INDEX postroad_outbox_pending ON postroad_outbox (processed_at, number);
-- The relays at work on an outbox table; a slice belongs to its owner while the owner's lease lasts.
CREATE TABLE postroad_outbox_relays (
    outbox VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    owner VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    lease_until_us BIGINT NOT NULL,
    PRIMARY KEY (outbox, owner)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE postroad_outbox_slices (
    outbox VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    slice INTEGER NOT NULL,
    owner VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    PRIMARY KEY (outbox, slice)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- Rows of an outbox table that are left alone: poison, and what waits behind it.
CREATE TABLE postroad_outbox_parked (
    outbox VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    row_id VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    message_id VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    topic VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    aggregateid VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    poison INTEGER NOT NULL,
    reason VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
    detail VARCHAR(1000) COLLATE utf8mb4_bin NOT NULL,
    parked_us BIGINT NOT NULL,
    PRIMARY KEY (outbox, row_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE INDEX postroad_outbox_parked_poison ON postroad_outbox_parked (outbox, poison, aggregateid);
