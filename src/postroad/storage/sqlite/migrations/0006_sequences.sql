-- How far each group has come with each numbering of a key; `line` is a hash of what names it.
CREATE TABLE postroad_sequences (
    line TEXT PRIMARY KEY,
    group_name TEXT NOT NULL,
    topic TEXT NOT NULL,
    message_key TEXT NOT NULL,
    epoch TEXT NOT NULL,
    first_number INTEGER NOT NULL,
    next_number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX postroad_sequences_group ON postroad_sequences (group_name, topic);
-- Numbers that were decided out of turn: settled, missing, or dead letters.
CREATE TABLE postroad_sequence_marks (
    line TEXT NOT NULL,
    first_number INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    mark TEXT NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (line, first_number)
) WITHOUT ROWID;
-- The last number that was given to a message of a key.
CREATE TABLE postroad_sequence_numbers (
    line TEXT PRIMARY KEY,
    topic TEXT NOT NULL,
    message_key TEXT NOT NULL,
    epoch TEXT NOT NULL,
    last_number INTEGER NOT NULL
) WITHOUT ROWID;
