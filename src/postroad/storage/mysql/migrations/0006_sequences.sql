-- How far each group has come with each numbering of a key; `line` is a hash of what names it.
CREATE TABLE postroad_sequences (
    line VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    group_name VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    topic VARCHAR(200) COLLATE utf8mb4_bin NOT NULL,
    message_key LONGTEXT COLLATE utf8mb4_bin NOT NULL,
    epoch VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
    first_number BIGINT NOT NULL,
    next_number BIGINT NOT NULL,
    KEY postroad_sequences_group (group_name, topic)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;
-- Numbers that were decided out of turn: settled, missing, or dead letters.
CREATE TABLE postroad_sequence_marks (
    line VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    first_number BIGINT NOT NULL,
    last_number BIGINT NOT NULL,
    mark VARCHAR(10) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    tag VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (line, first_number)
) ENGINE=InnoDB;
-- The last number that was given to a message of a key.
CREATE TABLE postroad_sequence_numbers (
    line VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    topic VARCHAR(200) COLLATE utf8mb4_bin NOT NULL,
    message_key LONGTEXT COLLATE utf8mb4_bin NOT NULL,
    epoch VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
    last_number BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;
