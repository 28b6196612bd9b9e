-- +goose Up
ALTER TABLE machines ADD COLUMN owner TEXT NOT NULL DEFAULT ''; -- id of the API key that made it; '' for local callers
