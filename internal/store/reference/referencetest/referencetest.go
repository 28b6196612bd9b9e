// Package referencetest makes databases as the reference implementation leaves
// them, for tests.
package referencetest

import (
	"database/sql"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// Schema is what the reference's five migrations make.
const Schema = `
CREATE TABLE kysely_migration (name varchar(255) NOT NULL PRIMARY KEY, timestamp varchar(255) NOT NULL);
CREATE TABLE kysely_migration_lock (id varchar(255) NOT NULL PRIMARY KEY, is_locked integer DEFAULT 0 NOT NULL);
CREATE TABLE machines (
	id text PRIMARY KEY, name text NOT NULL, status text DEFAULT 'pending' NOT NULL,
	vcpu_count integer NOT NULL, mem_size_mib integer NOT NULL,
	kernel_image_path text NOT NULL, kernel_args text, socket_path text NOT NULL, pid integer,
	config_json text NOT NULL, error_message text,
	created_at text DEFAULT CURRENT_TIMESTAMP NOT NULL, updated_at text DEFAULT CURRENT_TIMESTAMP NOT NULL,
	rootfs_path text, tap_device text, tap_ip text, guest_ip text, guest_mac text,
	runtime_type text DEFAULT 'firecracker' NOT NULL, container_id text, image text, image_ref text, image_digest text
);
CREATE INDEX idx_machines_status ON machines (status);
CREATE INDEX idx_machines_name ON machines (name);
CREATE INDEX idx_machines_runtime_type ON machines (runtime_type);
CREATE TABLE api_keys (
	id text PRIMARY KEY, name text NOT NULL, key_hash text NOT NULL UNIQUE, key_prefix text NOT NULL,
	scopes text DEFAULT '[]' NOT NULL, expires_at text, last_used_at text,
	created_at text DEFAULT CURRENT_TIMESTAMP NOT NULL, revoked_at text
);
CREATE INDEX idx_api_keys_key_hash ON api_keys (key_hash);
INSERT INTO kysely_migration VALUES ('001_create_machines', '2025-01-01T00:00:00.000Z'), ('005_add_image_fields', '2025-01-02T00:00:00.000Z');
`

// Rows is a fleet with one row of each kind. The keys are "hf_" and 32 times
// one letter: a (all scopes), b (reads machines, expired), c (revoked).
const Rows = `
INSERT INTO machines (id, name, status, vcpu_count, mem_size_mib, kernel_image_path, kernel_args, socket_path, pid,
	config_json, created_at, updated_at, tap_device, tap_ip, guest_ip, guest_mac, image_ref) VALUES
	('a1b2c3d4e5f6', 'web', 'running', 1.5, 256.0, 'assets/vmlinux', 'console=ttyS0', '/tmp/firecracker-a1b2c3d4e5f6.sock', 4711,
	 '{"vcpuCount":1.5,"exposedPorts":[80,443],"imageRef":"alpine:3.20","imageSizeMib":2048,"registryAuth":{"username":"me","password":"registry-secret"},"vsock":{"guest_cid":3}}',
	 '2025-03-01 10:00:00', '2025-03-02T11:12:13.456Z', 'hf1', '172.16.0.1', '172.16.0.2', 'AA:FC:AC:10:00:04', 'alpine:3.20');
INSERT INTO machines (id, name, status, vcpu_count, mem_size_mib, kernel_image_path, socket_path, config_json, created_at, updated_at, rootfs_path) VALUES
	('000000000000', 'bare', 'pending', 2, 128, 'assets/vmlinux', '/tmp/x.sock', '{}', '2025-03-03 10:00:00', '2025-03-03 10:00:00', '/srv/assets/alpine-rootfs.ext4');
INSERT INTO api_keys VALUES
	('V1StGXR8_Z5j', 'all', '3b0d9436c3146ed4133a4596a31a9d2740e9d8cc9fff6508416f968276e673ba', 'hf_aaaaaaaa', '["*"]', NULL, '2025-03-04 10:00:00', '2025-03-01 09:00:00', NULL),
	('expired-0001', 'old', 'dc1526ed8f79d432f802dcc9e6fae5be4a0697736bb9f19c67763e491cf48530', 'hf_bbbbbbbb', '["machines:read"]', '2025-03-05T00:00:00.000Z', NULL, '2025-03-01 09:00:00', NULL),
	('revoked-0001', 'gone', '5ccada9b144c88e5422c41b0a1ce5a546dc2c3613354af89fe4f370203989896', 'hf_cccccccc', '["*"]', NULL, NULL, '2025-03-01 09:00:00', '2025-03-06T00:00:00.000Z');
`

// New makes a database of the given statements in a folder of the test's and
// returns its path.
func New(t testing.TB, statements ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "reference.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
