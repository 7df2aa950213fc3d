-- What was done under an idempotency key: claimed with a lease, then kept for a window.
CREATE TABLE postroad_keys (
    id bytea NOT NULL PRIMARY KEY,          -- SHA-256 of scope and key
    scope text NOT NULL,                    -- for people who look; the id decides
    fingerprint bytea NOT NULL,             -- SHA-256 of what was asked
    owner bytea NOT NULL,                   -- the claim's own random mark: its fence
    lease_until_us bigint,                  -- NULL: done
    claims bigint NOT NULL,                 -- how often it was claimed without being done
    result bytea,
    expires_us bigint NOT NULL
);
CREATE INDEX postroad_keys_expiry ON postroad_keys (expires_us);

-- Tokens that can be redeemed once. A token itself is never kept.
CREATE TABLE postroad_tokens (
    id bytea NOT NULL PRIMARY KEY,          -- SHA-256 of purpose and token
    purpose text NOT NULL,                  -- for people who look; the id decides
    content bytea NOT NULL,
    redeemed_us bigint,                     -- NULL: not yet
    expires_us bigint NOT NULL
);
CREATE INDEX postroad_tokens_expiry ON postroad_tokens (expires_us);
