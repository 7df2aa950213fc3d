-- Inbox: what a group has handled, one row a message, in the transaction of its effects.
-- A reader is a group on a topic. `cleaned_us` is when somebody last looked for rows that are older
-- than the window; `keeps_until_us`: nothing is removed before, since the group was away.
CREATE TABLE postroad_readers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    topic TEXT NOT NULL,
    window_us INTEGER NOT NULL,
    cleaned_us INTEGER NOT NULL,
    keeps_until_us INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    UNIQUE (name, topic)
);
-- `message` is the CloudEvents id and source; ids grow with time, so that inserts stay together.
CREATE TABLE postroad_inbox (
    reader_id INTEGER NOT NULL,
    message TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (reader_id, message)
) WITHOUT ROWID;
CREATE INDEX postroad_inbox_at ON postroad_inbox (reader_id, at_us);
