-- The log: a stream is one (topic, partition, priority); a message's position is
-- stream << 40 | offset, so that publishing appends to one B-tree and needs no other index.
CREATE TABLE postroad_topics (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(255) NOT NULL UNIQUE,
    partitions BIGINT NOT NULL,
    age_us BIGINT,
    size BIGINT,
    consumed BIGINT NOT NULL,
    created_us BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE postroad_streams (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    topic_id BIGINT NOT NULL,
    part BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    first_offset BIGINT NOT NULL DEFAULT 0,
    next_offset BIGINT NOT NULL DEFAULT 0,
    published BIGINT NOT NULL DEFAULT 0,
    bytes BIGINT NOT NULL DEFAULT 0,
    last_us BIGINT NOT NULL DEFAULT 0,
    UNIQUE (topic_id, part, priority)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE postroad_messages (
    position BIGINT NOT NULL PRIMARY KEY,
    id VARCHAR(512) NOT NULL,
    origin BIGINT NOT NULL,
    message_key VARCHAR(512),
    time_us BIGINT NOT NULL,
    appended_us BIGINT NOT NULL,
    expires_at_us BIGINT,
    data LONGBLOB NOT NULL,
    envelope LONGBLOB
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- What many messages have in common; the id is a hash of the rest, so no process has to ask.
CREATE TABLE postroad_origins (
    id BIGINT NOT NULL PRIMARY KEY,
    type VARCHAR(1024) NOT NULL,
    source VARCHAR(1024) NOT NULL,
    content_type VARCHAR(255) NOT NULL,
    data_schema VARCHAR(1024)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- Delayed messages, until they take their place in the log.
CREATE TABLE postroad_scheduled (
    number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    topic_id BIGINT NOT NULL,
    part BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    due_us BIGINT NOT NULL,
    id VARCHAR(512) NOT NULL,
    origin BIGINT NOT NULL,
    message_key VARCHAR(512),
    time_us BIGINT NOT NULL,
    appended_us BIGINT NOT NULL,
    expires_at_us BIGINT,
    data LONGBLOB NOT NULL,
    envelope LONGBLOB
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX postroad_scheduled_due ON postroad_scheduled (due_us, number);
CREATE INDEX postroad_scheduled_id ON postroad_scheduled (id);
CREATE TABLE postroad_once (
    token VARCHAR(512) PRIMARY KEY,
    at_us BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX postroad_once_at ON postroad_once (at_us);
-- Rate limits of groups: a token bucket each.
CREATE TABLE postroad_permits (
    name VARCHAR(255) PRIMARY KEY,
    tokens DOUBLE PRECISION NOT NULL,
    at_us BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Locks by name, each held by locking its row.
CREATE TABLE postroad_locks (
    name VARCHAR(512) NOT NULL PRIMARY KEY
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Groups: what was ever subscribed, one row for each topic it reads, and a cursor a stream.
-- `carried` is what a group that was moved took along: dead letters from before the move.
CREATE TABLE postroad_subscriptions (
    name VARCHAR(255) NOT NULL,
    source VARCHAR(255) NOT NULL,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (name, source)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE postroad_groups (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    topic_id BIGINT NOT NULL,
    name VARCHAR(255) NOT NULL,
    since_us BIGINT NOT NULL,
    carried BIGINT NOT NULL DEFAULT 0,
    UNIQUE (topic_id, name)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- No row: the stream is younger than the group, which reads it from its first message.
CREATE TABLE postroad_cursors (
    group_id BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    base BIGINT NOT NULL,
    PRIMARY KEY (group_id, stream_id)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE postroad_counters (
    group_id BIGINT NOT NULL,
    outcome VARCHAR(64) NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (group_id, outcome)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Consumers: a session is one member of a group; its number is the fence.
CREATE TABLE postroad_sessions (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    source VARCHAR(1024) NOT NULL,
    owner VARCHAR(512) NOT NULL,
    lease_us BIGINT NOT NULL,
    lease_until_us BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE postroad_owners (
    group_id BIGINT NOT NULL,
    part BIGINT NOT NULL,
    session_id BIGINT NOT NULL,
    revoked_us BIGINT,
    fence BIGINT NOT NULL,
    PRIMARY KEY (group_id, part)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- The last fence that was given out: each owner of a partition gets a higher one than all before.
CREATE TABLE postroad_fence (value BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY)
    ENGINE=InnoDB;
-- A handed-out range. session_id NULL: given back or orphaned, first in line to go out again.
-- `starts` counts crashes while it was out and begun, `alone` those of them in which it was one
-- message that had been suspected before, and so the only one in flight.
CREATE TABLE postroad_claims (
    id BIGINT NOT NULL PRIMARY KEY,
    group_id BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,
    first_offset BIGINT NOT NULL,
    size BIGINT NOT NULL,
    session_id BIGINT,
    starts BIGINT NOT NULL,
    alone BIGINT NOT NULL,
    begun BIGINT NOT NULL,
    lost BIGINT NOT NULL,
    settled LONGBLOB
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX postroad_claims_returned ON postroad_claims
    (group_id, session_id, stream_id, first_offset);
-- Exceptions, each with its own copy of the message, so that the log may be trimmed. In a lane
-- the first one that waits is due some day; those behind it are due never (1 << 62) and go out
-- with it. So a blocked lane costs one index entry that is looked at, however long it gets.
-- `turn` counts hand-outs, so that an answer to an earlier one is told from the present one's.
CREATE TABLE postroad_retries (
    number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    group_id BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,
    log_offset BIGINT NOT NULL,
    lane VARCHAR(512),
    due_us BIGINT NOT NULL,
    session_id BIGINT,
    attempts BIGINT NOT NULL,
    starts BIGINT NOT NULL,
    alone BIGINT NOT NULL DEFAULT 0,
    begun BIGINT NOT NULL DEFAULT 0,
    lost BIGINT NOT NULL,
    turn BIGINT NOT NULL DEFAULT 0,
    failures LONGBLOB,
    id VARCHAR(512) NOT NULL,
    origin BIGINT NOT NULL,
    message_key VARCHAR(512),
    time_us BIGINT NOT NULL,
    appended_us BIGINT NOT NULL,
    expires_at_us BIGINT,
    data LONGBLOB NOT NULL,
    envelope LONGBLOB
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX postroad_retries_due ON postroad_retries
    (group_id, session_id, due_us, stream_id, log_offset);
CREATE INDEX postroad_retries_stream ON postroad_retries
    (group_id, stream_id, session_id, due_us, log_offset);
CREATE INDEX postroad_retries_lane ON postroad_retries (group_id, stream_id, lane, log_offset);
CREATE INDEX postroad_retries_session ON postroad_retries (session_id);
CREATE TABLE postroad_dead_letters (
    number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    group_id BIGINT NOT NULL,
    stream_id BIGINT NOT NULL,
    log_offset BIGINT NOT NULL,
    lane VARCHAR(512),
    parks BIGINT NOT NULL,
    died_us BIGINT NOT NULL,
    failures LONGBLOB,
    id VARCHAR(512) NOT NULL,
    origin BIGINT NOT NULL,
    message_key VARCHAR(512),
    time_us BIGINT NOT NULL,
    appended_us BIGINT NOT NULL,
    expires_at_us BIGINT,
    data LONGBLOB NOT NULL,
    envelope LONGBLOB
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX postroad_dead_letters_group ON postroad_dead_letters (group_id, appended_us, stream_id, log_offset);
-- Dead letters behind which their lane waits.
CREATE INDEX postroad_dead_letters_parks ON postroad_dead_letters
    (group_id, parks, stream_id, lane, log_offset);
