-- name: park
INSERT INTO postroad_outbox_parked
    (outbox, row_id, message_id, topic, aggregateid, poison, reason, detail, parked_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (outbox, row_id) DO NOTHING;
