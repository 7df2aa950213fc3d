-- What was done under an idempotency key: claimed with a lease, then kept for a window.
CREATE TABLE postroad_keys (
    id BINARY(32) NOT NULL PRIMARY KEY,     -- SHA-256 of scope and key
    scope VARCHAR(255) COLLATE utf8mb4_bin NOT NULL, -- for people who look; the id decides
    fingerprint BINARY(32) NOT NULL,        -- SHA-256 of what was asked
    owner BINARY(16) NOT NULL,              -- the claim's own random mark: its fence
    lease_until_us BIGINT,                  -- NULL: done
    claims BIGINT NOT NULL,                 -- how often it was claimed without being done
    result LONGBLOB,
    expires_us BIGINT NOT NULL,
    INDEX postroad_keys_expiry (expires_us)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Tokens that can be redeemed once. A token itself is never kept.
CREATE TABLE postroad_tokens (
    id BINARY(32) NOT NULL PRIMARY KEY,     -- SHA-256 of purpose and token
    purpose VARCHAR(255) COLLATE utf8mb4_bin NOT NULL, -- for people who look; the id decides
    content LONGBLOB NOT NULL,
    redeemed_us BIGINT,                     -- NULL: not yet
    expires_us BIGINT NOT NULL,
    INDEX postroad_tokens_expiry (expires_us)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;
