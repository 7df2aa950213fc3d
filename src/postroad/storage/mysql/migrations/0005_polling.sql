-- Polling of a business table: what is known of a row beside what the row itself says. There is a
-- row here while one is claimed, waits for its next attempt, or is a dead letter.
CREATE TABLE postroad_polled (
    number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    topic VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    group_name VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    -- The business row's key, as text.
    row_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    -- What it is made of again: int, str or uuid.
    key_kind VARCHAR(8) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    -- Who claims it; NULL: nobody does.
    session VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    -- End of the lease, or when it is due; dead: never.
    until_us BIGINT NOT NULL,
    -- Of the last claim.
    fence BIGINT NOT NULL,
    -- How often it was claimed.
    turns BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    -- Claims that ended with their lease, and those of them in which it was alone in flight.
    starts BIGINT NOT NULL,
    alone BIGINT NOT NULL,
    -- 0: not begun, 1: with others, 2: alone.
    begun BIGINT NOT NULL,
    failures LONGBLOB,
    -- What the claim overwrote, to be put back.
    restores LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    -- First claimed, or died.
    since_us BIGINT NOT NULL,
    -- A dead letter's.
    message LONGBLOB,
    UNIQUE KEY postroad_polled_key (topic, group_name, row_key),
    KEY postroad_polled_until (topic, group_name, until_us),
    KEY postroad_polled_session (session)
) ENGINE=InnoDB;
-- When a cron schedule was last followed, so that one that was missed is found.
CREATE TABLE postroad_polls (
    topic VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    group_name VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    ran_us BIGINT NOT NULL,
    PRIMARY KEY (topic, group_name)
) ENGINE=InnoDB;
