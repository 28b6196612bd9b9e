-- +goose Up
CREATE TABLE machines (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation
    id            TEXT    NOT NULL UNIQUE,
    host_id       TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    spec          TEXT    NOT NULL, -- JSON
    state         TEXT    NOT NULL,
    error_message TEXT    NOT NULL DEFAULT '',
    error_code    TEXT    NOT NULL DEFAULT '',
    image_ref     TEXT    NOT NULL DEFAULT '',
    image_digest  TEXT    NOT NULL DEFAULT '',
    image_config  TEXT    NOT NULL DEFAULT '{}', -- JSON
    slot          INTEGER NOT NULL UNIQUE CHECK (slot > 0),
    process       TEXT, -- JSON
    port_forwards TEXT    NOT NULL DEFAULT '[]', -- JSON
    created_at    INTEGER NOT NULL, -- times are nanoseconds since 1970, UTC; 0 is never
    updated_at    INTEGER NOT NULL,
    started_at    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX machines_state ON machines (state);

CREATE TABLE operations (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    machine_id  TEXT    NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    kind        TEXT    NOT NULL,
    steps       TEXT    NOT NULL, -- JSON
    outcome     TEXT    NOT NULL DEFAULT '',
    error       TEXT    NOT NULL DEFAULT '',
    started_at  INTEGER NOT NULL,
    finished_at INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX operations_machine ON operations (machine_id, seq);
CREATE INDEX operations_unfinished ON operations (seq) WHERE outcome = '';
