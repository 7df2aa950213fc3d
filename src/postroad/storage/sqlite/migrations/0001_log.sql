-- The log: a stream is one (topic, partition, priority); a message's position is
-- stream << 40 | offset, so that publishing appends to one B-tree and needs no other index.
CREATE TABLE postroad_topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    age_us INTEGER,
    size INTEGER,
    consumed INTEGER NOT NULL,
    created_us INTEGER NOT NULL
);
CREATE TABLE postroad_streams (
    id INTEGER PRIMARY KEY,
    topic_id INTEGER NOT NULL,
    part INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0,
    published INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    last_us INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic_id, part, priority)
);
CREATE TABLE postroad_messages (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    origin INTEGER NOT NULL,
    message_key TEXT,
    time_us INTEGER NOT NULL,
    appended_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    data BLOB NOT NULL,
    envelope BLOB
);
-- What many messages have in common; the id is a hash of the rest, so no process has to ask.
CREATE TABLE postroad_origins (
    id INTEGER PRIMARY KEY,
    type TEXT NOT NULL,
    source TEXT NOT NULL,
    content_type TEXT NOT NULL,
    data_schema TEXT
);
-- Delayed messages, until they take their place in the log.
CREATE TABLE postroad_scheduled (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    topic_id INTEGER NOT NULL,
    part INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    id TEXT NOT NULL,
    origin INTEGER NOT NULL,
    message_key TEXT,
    time_us INTEGER NOT NULL,
    appended_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    data BLOB NOT NULL,
    envelope BLOB
);
CREATE INDEX postroad_scheduled_due ON postroad_scheduled (due_us, number);
CREATE INDEX postroad_scheduled_id ON postroad_scheduled (id);
CREATE TABLE postroad_once (
    token TEXT PRIMARY KEY,
    at_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX postroad_once_at ON postroad_once (at_us);
-- Rate limits of groups: a token bucket each.
CREATE TABLE postroad_permits (
    name TEXT PRIMARY KEY,
    tokens REAL NOT NULL,
    at_us INTEGER NOT NULL
) WITHOUT ROWID;

-- Groups: what was ever subscribed, one row for each topic it reads, and a cursor a stream.
-- `carried` is what a group that was moved took along: dead letters from before the move.
CREATE TABLE postroad_subscriptions (
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (name, source)
) WITHOUT ROWID;
CREATE TABLE postroad_groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    since_us INTEGER NOT NULL,
    carried INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic_id, name)
);
-- No row: the stream is younger than the group, which reads it from its first message.
CREATE TABLE postroad_cursors (
    group_id INTEGER NOT NULL,
    stream_id INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    base INTEGER NOT NULL,
    PRIMARY KEY (group_id, stream_id)
) WITHOUT ROWID;
CREATE TABLE postroad_counters (
    group_id INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (group_id, outcome)
) WITHOUT ROWID;

-- Consumers: a session is one member of a group; its number is the fence.
CREATE TABLE postroad_sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    owner TEXT NOT NULL,
    lease_us INTEGER NOT NULL,
    lease_until_us INTEGER NOT NULL
);
CREATE TABLE postroad_owners (
    group_id INTEGER NOT NULL,
    part INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    revoked_us INTEGER,
    fence INTEGER NOT NULL,
    PRIMARY KEY (group_id, part)
) WITHOUT ROWID;
-- The last fence that was given out: each owner of a partition gets a higher one than all before.
CREATE TABLE postroad_fence (value INTEGER NOT NULL);
INSERT INTO postroad_fence VALUES (0);
-- A handed-out range. session_id NULL: given back or orphaned, first in line to go out again.
-- `starts` counts crashes while it was out and begun, `alone` those of them in which it was one
-- message that had been suspected before, and so the only one in flight.
CREATE TABLE postroad_claims (
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL,
    stream_id INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    size INTEGER NOT NULL,
    session_id INTEGER,
    starts INTEGER NOT NULL,
    alone INTEGER NOT NULL,
    begun INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    settled BLOB
);
CREATE INDEX postroad_claims_returned ON postroad_claims (group_id, stream_id, first_offset)
    WHERE session_id IS NULL;
-- Exceptions, each with its own copy of the message, so that the log may be trimmed. In a lane
-- the first one that waits is due some day; those behind it are due never (1 << 62) and go out
-- with it. So a blocked lane costs one index entry that is looked at, however long it gets.
-- `turn` counts hand-outs, so that an answer to an earlier one is told from the present one's.
CREATE TABLE postroad_retries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id INTEGER NOT NULL,
    stream_id INTEGER NOT NULL,
    log_offset INTEGER NOT NULL,
    lane TEXT,
    due_us INTEGER NOT NULL,
    session_id INTEGER,
    attempts INTEGER NOT NULL,
    starts INTEGER NOT NULL,
    alone INTEGER NOT NULL DEFAULT 0,
    begun INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL,
    turn INTEGER NOT NULL DEFAULT 0,
    failures BLOB,
    id TEXT NOT NULL,
    origin INTEGER NOT NULL,
    message_key TEXT,
    time_us INTEGER NOT NULL,
    appended_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    data BLOB NOT NULL,
    envelope BLOB
);
CREATE INDEX postroad_retries_due ON postroad_retries (group_id, due_us, stream_id, log_offset)
    WHERE session_id IS NULL;
CREATE INDEX postroad_retries_stream ON postroad_retries (group_id, stream_id, due_us, log_offset)
    WHERE session_id IS NULL;
CREATE INDEX postroad_retries_lane ON postroad_retries (group_id, stream_id, lane, log_offset)
    WHERE lane IS NOT NULL;
CREATE INDEX postroad_retries_session ON postroad_retries (session_id)
    WHERE session_id IS NOT NULL;
CREATE TABLE postroad_dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id INTEGER NOT NULL,
    stream_id INTEGER NOT NULL,
    log_offset INTEGER NOT NULL,
    lane TEXT,
    parks INTEGER NOT NULL,
    died_us INTEGER NOT NULL,
    failures BLOB,
    id TEXT NOT NULL,
    origin INTEGER NOT NULL,
    message_key TEXT,
    time_us INTEGER NOT NULL,
    appended_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    data BLOB NOT NULL,
    envelope BLOB
);
CREATE INDEX postroad_dead_letters_group ON postroad_dead_letters (group_id, appended_us, stream_id, log_offset);
-- Dead letters behind which their lane waits.
CREATE INDEX postroad_dead_letters_parks ON postroad_dead_letters (group_id, stream_id, lane, log_offset)
    WHERE parks = 1;
