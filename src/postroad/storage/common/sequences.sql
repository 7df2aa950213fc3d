-- name: sequences
SELECT s.line, s.first_number, s.next_number, m.first_number, m.last_number, m.mark, m.tag
FROM postroad_sequences s LEFT JOIN postroad_sequence_marks m ON m.line = s.line
WHERE s.line IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- What an owner that was replaced writes late takes nothing back.
-- name: sequence_advance
INSERT INTO postroad_sequences
    (line, group_name, topic, message_key, epoch, first_number, next_number)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (line) DO UPDATE SET next_number = excluded.next_number
WHERE postroad_sequences.next_number < excluded.next_number;

-- name: sequence_mark
INSERT INTO postroad_sequence_marks (line, first_number, last_number, mark, tag)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (line, first_number)
DO UPDATE SET last_number = excluded.last_number, mark = excluded.mark, tag = excluded.tag;

-- name: sequence_unmark
DELETE FROM postroad_sequence_marks WHERE line = ? AND first_number = ?;

-- name: sequence_forget_marks
DELETE FROM postroad_sequence_marks WHERE line IN
    (SELECT line FROM postroad_sequences WHERE group_name = ? AND topic = ?);

-- name: sequence_forget
DELETE FROM postroad_sequences WHERE group_name = ? AND topic = ?;

-- name: sequence_number_take
INSERT INTO postroad_sequence_numbers (line, topic, message_key, epoch, last_number)
VALUES (?, ?, ?, ?, 1)
ON CONFLICT (line) DO UPDATE SET last_number = postroad_sequence_numbers.last_number + 1;

-- name: sequence_number
SELECT last_number FROM postroad_sequence_numbers WHERE line = ?;
