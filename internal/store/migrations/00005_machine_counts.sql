-- +goose Up
-- What a create and a list would otherwise count anew each time, over all
-- machines there are.

-- Every slot from 1 to the largest ever given that no machine has.
CREATE TABLE free_slots (slot INTEGER PRIMARY KEY) STRICT;

INSERT INTO free_slots
WITH RECURSIVE given (slot) AS (
    SELECT 1 WHERE EXISTS (SELECT 1 FROM machines)
    UNION ALL
    SELECT slot + 1 FROM given WHERE slot < (SELECT max(slot) FROM machines)
)
SELECT slot FROM given WHERE slot NOT IN (SELECT slot FROM machines);

CREATE TABLE machine_counts (
    state TEXT    PRIMARY KEY,
    n     INTEGER NOT NULL CHECK (n >= 0)
) STRICT;

INSERT INTO machine_counts SELECT state, count(*) FROM machines GROUP BY state;

-- +goose StatementBegin
CREATE TRIGGER machine_created AFTER INSERT ON machines BEGIN
    DELETE FROM free_slots WHERE slot = new.slot;
    INSERT INTO machine_counts VALUES (new.state, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER machine_deleted AFTER DELETE ON machines BEGIN
    INSERT INTO free_slots VALUES (old.slot);
    UPDATE machine_counts SET n = n - 1 WHERE state = old.state;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER machine_changed AFTER UPDATE OF state ON machines WHEN new.state <> old.state BEGIN
    UPDATE machine_counts SET n = n - 1 WHERE state = old.state;
    INSERT INTO machine_counts VALUES (new.state, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd
