-- Inbox: what a group has handled, one row a message, in the transaction of its effects.
-- A reader is a group on a topic. `cleaned_us` is when somebody last looked for rows that are older
-- than the window; `keeps_until_us`: nothing is removed before, since the group was away.
CREATE TABLE postroad_readers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    topic text NOT NULL,
    window_us bigint NOT NULL,
    cleaned_us bigint NOT NULL,
    keeps_until_us bigint NOT NULL,
    duplicates bigint NOT NULL,
    UNIQUE (name, topic)
);
-- `message` is the CloudEvents id and source; ids grow with time, so that inserts stay together.
CREATE TABLE postroad_inbox (
    reader_id bigint NOT NULL,
    message text COLLATE "C" NOT NULL,
    at_us bigint NOT NULL,
    PRIMARY KEY (reader_id, message)
);
CREATE INDEX postroad_inbox_at ON postroad_inbox (reader_id, at_us);
