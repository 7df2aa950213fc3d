-- What PostgreSQL says differently. The clock is read now, not as of the transaction's begin.

-- name: now
SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint);
