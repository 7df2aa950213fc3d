-- name: sequence_advance
INSERT INTO postroad_sequences
    (line, group_name, topic, message_key, epoch, first_number, next_number)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON DUPLICATE KEY UPDATE next_number = GREATEST(next_number, VALUES(next_number));

-- name: sequence_mark
INSERT INTO postroad_sequence_marks (line, first_number, last_number, mark, tag)
VALUES (?, ?, ?, ?, ?)
ON DUPLICATE KEY UPDATE
    last_number = VALUES(last_number), mark = VALUES(mark), tag = VALUES(tag);

-- name: sequence_number_take
INSERT INTO postroad_sequence_numbers (line, topic, message_key, epoch, last_number)
VALUES (?, ?, ?, ?, 1)
ON DUPLICATE KEY UPDATE last_number = last_number + 1;
