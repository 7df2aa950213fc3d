-- Inbox: what a group has handled, one row a message, in the transaction of its effects.
-- A reader is a group on a topic. `cleaned_us` is when somebody last looked for rows that are older
-- than the window; `keeps_until_us`: nothing is removed before, since the group was away.
CREATE TABLE postroad_readers (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    topic VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    window_us BIGINT NOT NULL,
    cleaned_us BIGINT NOT NULL,
    keeps_until_us BIGINT NOT NULL,
    duplicates BIGINT NOT NULL,
    UNIQUE (name, topic)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- `message` is the CloudEvents id and source; ids grow with time, so that inserts stay together.
CREATE TABLE postroad_inbox (
    reader_id BIGINT NOT NULL,
    message VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (reader_id, message)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE INDEX postroad_inbox_at ON postroad_inbox (reader_id, at_us);
