-- Polling of a business table: what is known of a row beside what the row itself says. There is a
-- row here while one is claimed, waits for its next attempt, or is a dead letter.
CREATE TABLE postroad_polled (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    group_name TEXT NOT NULL,
    row_key TEXT NOT NULL,                  -- the business row's key, as text
    key_kind TEXT NOT NULL,                 -- what it is made of again: int, str or uuid
    session TEXT,                           -- who claims it; NULL: nobody does
    until_us INTEGER NOT NULL,              -- end of the lease, or when it is due; dead: never
    fence INTEGER NOT NULL,                 -- of the last claim
    turns INTEGER NOT NULL,                 -- how often it was claimed
    attempts INTEGER NOT NULL,
    starts INTEGER NOT NULL,                -- claims that ended with their lease
    alone INTEGER NOT NULL,                 -- those of them in which it was alone in flight
    begun INTEGER NOT NULL,                 -- 0: not begun, 1: with others, 2: alone
    failures BLOB,
    restores TEXT NOT NULL,                 -- what the claim overwrote, to be put back
    since_us INTEGER NOT NULL,              -- first claimed, or died
    message BLOB                            -- a dead letter's
);
CREATE UNIQUE INDEX postroad_polled_key ON postroad_polled (topic, group_name, row_key);
CREATE INDEX postroad_polled_until ON postroad_polled (topic, group_name, until_us);
CREATE INDEX postroad_polled_session ON postroad_polled (session) WHERE session IS NOT NULL;
-- When a cron schedule was last followed, so that one that was missed is found.
CREATE TABLE postroad_polls (
    topic TEXT NOT NULL,
    group_name TEXT NOT NULL,
    ran_us INTEGER NOT NULL,
    PRIMARY KEY (topic, group_name)
) WITHOUT ROWID;
