-- What was done under an idempotency key: claimed with a lease, then kept for a window.
CREATE TABLE postroad_keys (
    id BLOB NOT NULL PRIMARY KEY,           -- SHA-256 of scope and key
    scope TEXT NOT NULL,                    -- for people who look; the id decides
    fingerprint BLOB NOT NULL,              -- SHA-256 of what was asked
    owner BLOB NOT NULL,                    -- the claim's own random mark: its fence
    lease_until_us INTEGER,                 -- NULL: done
    claims INTEGER NOT NULL,                -- how often it was claimed without being done
    result BLOB,
    expires_us INTEGER NOT NULL
);
CREATE INDEX postroad_keys_expiry ON postroad_keys (expires_us);

-- Tokens that can be redeemed once. A token itself is never kept.
CREATE TABLE postroad_tokens (
    id BLOB NOT NULL PRIMARY KEY,           -- SHA-256 of purpose and token
    purpose TEXT NOT NULL,                  -- for people who look; the id decides
    content BLOB NOT NULL,
    redeemed_us INTEGER,                    -- NULL: not yet
    expires_us INTEGER NOT NULL
);
CREATE INDEX postroad_tokens_expiry ON postroad_tokens (expires_us);
