CREATE TABLE IF NOT EXISTS rooms (
    name VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    opened_at BIGINT NOT NULL
);

-- Of a room, or of two people: one of `room` and `recipient` is there. `id` is the author's own, so
-- that a message that is sent again is kept once.
CREATE TABLE IF NOT EXISTS messages (
    seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    author VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    id VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    room VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NULL,
    recipient VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    text TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    at BIGINT NOT NULL,
    UNIQUE KEY once (author, id),
    KEY of_room (room, seq),
    KEY by_author (author, recipient, seq),
    KEY to_recipient (recipient, seq)
);
