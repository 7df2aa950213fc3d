-- How far each group has come with each numbering of a key; `line` is a hash of what names it.
CREATE TABLE postroad_sequences (
    line text PRIMARY KEY,
    group_name text NOT NULL,
    topic text NOT NULL,
    message_key text NOT NULL,
    epoch text NOT NULL,
    first_number bigint NOT NULL,
    next_number bigint NOT NULL
);
CREATE INDEX postroad_sequences_group ON postroad_sequences (group_name, topic);
-- Numbers that were decided out of turn: settled, missing, or dead letters.
CREATE TABLE postroad_sequence_marks (
    line text NOT NULL,
    first_number bigint NOT NULL,
    last_number bigint NOT NULL,
    mark text NOT NULL,
    tag text NOT NULL,
    PRIMARY KEY (line, first_number)
);
-- The last number that was given to a message of a key.
CREATE TABLE postroad_sequence_numbers (
    line text PRIMARY KEY,
    topic text NOT NULL,
    message_key text NOT NULL,
    epoch text NOT NULL,
    last_number bigint NOT NULL
);
