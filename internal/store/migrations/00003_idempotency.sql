-- +goose Up
CREATE TABLE idempotency (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT, -- order of beginning
    caller      TEXT    NOT NULL, -- id of an API key; '' for local callers
    key         TEXT    NOT NULL,
    operation   TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL, -- SHA-256 of the request
    reference   TEXT    NOT NULL DEFAULT '',
    status      INTEGER NOT NULL DEFAULT 0, -- of the result; 0 while it is started
    header      TEXT    NOT NULL DEFAULT '{}', -- JSON
    body        BLOB,
    dropped     INTEGER NOT NULL DEFAULT 0, -- 1: the body was too large
    size        INTEGER NOT NULL DEFAULT 0, -- of header and body, bytes
    created_at  INTEGER NOT NULL, -- nanoseconds since 1970, UTC
    expires_at  INTEGER NOT NULL,
    UNIQUE (caller, key)
) STRICT;

CREATE INDEX idempotency_expiry ON idempotency (expires_at);
CREATE INDEX idempotency_finished ON idempotency (caller, seq) WHERE status <> 0;

-- What each caller's finished records take, so that no write counts them.
CREATE TABLE idempotency_use (
    caller TEXT    PRIMARY KEY,
    n      INTEGER NOT NULL CHECK (n >= 0),
    bytes  INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER idempotency_finished AFTER UPDATE OF status ON idempotency WHEN old.status = 0 AND new.status <> 0 BEGIN
    INSERT INTO idempotency_use VALUES (new.caller, 1, new.size)
        ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + new.size;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER idempotency_removed AFTER DELETE ON idempotency WHEN old.status <> 0 BEGIN
    UPDATE idempotency_use SET n = n - 1, bytes = bytes - old.size WHERE caller = old.caller;
    DELETE FROM idempotency_use WHERE caller = old.caller AND n = 0;
END;
-- +goose StatementEnd
