-- name: streams_lock
SELECT id, next_offset, last_us, topic_id,
       (SELECT partitions FROM postroad_topics t WHERE t.id = topic_id)
FROM postroad_streams WHERE id IN (?*) ORDER BY id;
