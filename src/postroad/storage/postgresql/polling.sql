-- name: columns
-- What is not PostgreSQL's own (enumerations, types of extensions) has no form of the driver's.
SELECT attname, CASE WHEN atttypid >= 16384 AND typtype <> 'd' THEN 1 ELSE 0 END
FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
WHERE attrelid = to_regclass(
        CASE WHEN CAST(?2 AS TEXT) IS NULL THEN '' ELSE quote_ident(CAST(?2 AS TEXT)) || '.' END
        || quote_ident(CAST(?1 AS TEXT)))
    AND attnum > 0 AND NOT attisdropped
ORDER BY attnum;
