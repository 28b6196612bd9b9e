-- +goose Up
CREATE TABLE api_keys (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation
    id           TEXT    NOT NULL UNIQUE,
    name         TEXT    NOT NULL,
    key_hash     TEXT    NOT NULL UNIQUE, -- SHA-256 of the key, hexadecimal
    key_prefix   TEXT    NOT NULL,
    scopes       TEXT    NOT NULL DEFAULT '[]', -- JSON
    created_at   INTEGER NOT NULL, -- times are nanoseconds since 1970, UTC; 0 is never
    expires_at   INTEGER NOT NULL DEFAULT 0,
    last_used_at INTEGER NOT NULL DEFAULT 0,
    revoked_at   INTEGER NOT NULL DEFAULT 0
) STRICT;
