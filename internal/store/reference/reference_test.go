package reference_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/store/reference"
	"github.com/hyperfleet/hyperfleet/internal/store/reference/referencetest"
)

var options = reference.Options{HostID: "here", Limits: machine.Limits{DefaultDiskMiB: 1024, MaxDiskMiB: 4096, MaxMemMiB: 4096, MaxVCPUs: 8}}

func TestRead(t *testing.T) {
	path := referencetest.New(t, referencetest.Schema, referencetest.Rows)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := reference.Read(t.Context(), path, options)
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	machines := []reference.Record[machine.Machine]{
		{
			ID: "a1b2c3d4e5f6", Name: "web",
			Value: machine.Machine{
				ID: "a1b2c3d4e5f6", HostID: "here", State: machine.Stopped,
				Spec: machine.Spec{
					Name: "web", VCPUs: 2, MemMiB: 256, Image: "alpine:3.20", DiskMiB: 2048,
					ExposedPorts: []uint16{80, 443}, Network: machine.NetworkSpec{Enable: true},
				},
				CreatedAt: at("2025-03-01T10:00:00Z"), UpdatedAt: at("2025-03-02T11:12:13.456Z"),
			},
			Notes: []string{
				"vcpu_count 1.5 becomes 2",
				"the login for its registry is dropped, since no password is stored here: log the daemon's user in there",
				"its addresses are chosen anew: 172.16.0.2 on hf1 is not kept",
				"it was running: end its Firecracker process (pid 4711) yourself",
			},
		},
		{
			ID: "000000000000", Name: "bare",
			Value: machine.Machine{
				ID: "000000000000", HostID: "here", State: machine.Stopped,
				Spec:      machine.Spec{Name: "bare", VCPUs: 2, MemMiB: 128, DiskMiB: 1024},
				CreatedAt: at("2025-03-03T10:00:00Z"), UpdatedAt: at("2025-03-03T10:00:00Z"),
			},
			Notes: []string{"it shared the root filesystem /srv/assets/alpine-rootfs.ext4 with others: here it gets a disk of its own over HYPERFLEET_ROOTFS_PATH"},
		},
	}
	keys := []reference.Record[auth.Key]{
		{ID: "V1StGXR8_Z5j", Name: "all", Value: auth.Key{
			ID: "V1StGXR8_Z5j", Name: "all", Hash: secret("a").Hash(), Prefix: "hf_aaaaaaaa", Scopes: auth.Scopes{auth.All},
			CreatedAt: at("2025-03-01T09:00:00Z"), LastUsedAt: at("2025-03-04T10:00:00Z"),
		}},
		{ID: "expired-0001", Name: "old", Value: auth.Key{
			ID: "expired-0001", Name: "old", Hash: secret("b").Hash(), Prefix: "hf_bbbbbbbb", Scopes: auth.Scopes{auth.MachinesRead},
			CreatedAt: at("2025-03-01T09:00:00Z"), ExpiresAt: at("2025-03-05T00:00:00Z"),
		}},
		{ID: "revoked-0001", Name: "gone", Value: auth.Key{
			ID: "revoked-0001", Name: "gone", Hash: secret("c").Hash(), Prefix: "hf_cccccccc", Scopes: auth.Scopes{auth.All},
			CreatedAt: at("2025-03-01T09:00:00Z"), RevokedAt: at("2025-03-06T00:00:00Z"),
		}},
	}
	if diff := cmp.Diff(reference.Content{Machines: machines, Keys: keys}, c); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left beside the file: %v, %v", left, err)
	}
}

func secret(letter string) auth.Secret { return auth.Secret("hf_" + strings.Repeat(letter, 32)) }

// A file that the reference did not write is refused with words that say why.
func TestReadWrongFiles(t *testing.T) {
	file := func(content []byte) string {
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, err := os.ReadFile(referencetest.New(t, referencetest.Schema, referencetest.Rows))
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(good)
	copy(damaged[4096:], bytes.Repeat([]byte{0xff}, len(damaged)-4096))
	huge := file(good)
	if err := os.Truncate(huge, 1<<30+1); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"none":           {"/nowhere/x.db", "no such file"},
		"a folder":       {t.TempDir(), "no regular file"},
		"empty":          {file(nil), "is empty"},
		"text":           {file(bytes.Repeat([]byte("hello "), 1000)), "is no SQLite database"},
		"damaged":        {file(damaged), "is damaged"},
		"cut off":        {file(good[:5000]), "is damaged"},
		"huge":           {huge, "is larger than"},
		"other database": {referencetest.New(t, "CREATE TABLE t (x)"), "has no table machines"},
		"older": {
			referencetest.New(t, referencetest.Schema, "ALTER TABLE machines DROP COLUMN image_ref"), "has no column image_ref",
		},
		"no keys":      {referencetest.New(t, referencetest.Schema, "DROP TABLE api_keys"), "has no table api_keys"},
		"a view":       {referencetest.New(t, referencetest.Schema, "DROP TABLE machines", "CREATE VIEW machines AS SELECT * FROM api_keys"), "no plain table"},
		"a virtual":    {referencetest.New(t, referencetest.Schema, "DROP TABLE machines", "CREATE VIRTUAL TABLE machines USING fts5(id)"), "no plain table"},
		"computed":     {referencetest.New(t, referencetest.Schema, "ALTER TABLE api_keys RENAME COLUMN key_hash TO h", "ALTER TABLE api_keys ADD COLUMN key_hash AS (h)"), "has no column key_hash"},
		"without rows": {referencetest.New(t, referencetest.Schema), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := reference.Read(t.Context(), c.path, options)
			if c.want == "" {
				if err != nil || len(got.Machines)+len(got.Keys) > 0 {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if c.path[0] == '/' && c.want != "no such file" && !errdefs.Is(err, errdefs.Invalid) {
				t.Errorf("error %v is %s", err, errdefs.KindOf(err))
			}
		})
	}
}

// What is wrong with a row is told with the row, and never with its secrets.
func TestReadWrongRows(t *testing.T) {
	for name, c := range map[string]struct{ change, want string }{
		"machine id":       {"UPDATE machines SET id = '../../etc'", "id is not 1 to 40"},
		"number as id":     {"UPDATE machines SET id = x'00'", "id is a blob"},
		"words as vCPUs":   {"UPDATE machines SET vcpu_count = 'many'", "vcpu_count is a text"},
		"too many vCPUs":   {"UPDATE machines SET vcpu_count = 9", "vcpu_count must be 1 to 8"},
		"minus":            {"UPDATE machines SET mem_size_mib = -1", "mem_size_mib is -1"},
		"infinite":         {"UPDATE machines SET mem_size_mib = 9e999", "mem_size_mib is +Inf"},
		"control":          {"UPDATE machines SET name = 'a' || char(10)", "name must be"},
		"no name":          {"UPDATE machines SET name = ''", "name must be"},
		"not UTF-8":        {"UPDATE machines SET name = cast(x'ff' AS text)", "name is no text"},
		"config":           {"UPDATE machines SET config_json = '{\"registryAuth\":secret'", "config_json is not"},
		"port":             {"UPDATE machines SET config_json = '{\"exposedPorts\":[80.5]}'", "exposedPorts has 80.5"},
		"port as word":     {"UPDATE machines SET config_json = '{\"exposedPorts\":[\"80\"]}'", "config_json is not"},
		"disk":             {"UPDATE machines SET config_json = '{\"imageSizeMib\":1e300}'", "imageSizeMib is 1e+300"},
		"huge":             {"UPDATE machines SET config_json = '{\"x\":\"' || hex(zeroblob(9000000)) || '\"}'", "bytes, more than"},
		"container":        {"UPDATE machines SET runtime_type = 'docker'", "only microVMs"},
		"created when":     {"UPDATE machines SET created_at = 'yesterday'", "created_at yesterday is no time"},
		"created as a day": {"UPDATE machines SET created_at = x'32'", "created_at is a blob"},
		"hash":             {"UPDATE api_keys SET key_hash = 'secret' || id", "key_hash is no SHA-256"},
		"key id":           {"UPDATE api_keys SET id = 'a/../b' || id", "id is not 1 to 40"},
		"expires when":     {"UPDATE api_keys SET expires_at = 'never'", "expires_at never is no time"},
		"expires at 0":     {"UPDATE api_keys SET expires_at = 0", "expires_at 0 is no time"},
		"revoked when":     {"UPDATE api_keys SET revoked_at = 'x'", "revoked_at x is no time"},
		"scopes":           {"UPDATE api_keys SET scopes = '\"*\"'", "scopes is no JSON array"},
		"prefix":           {"UPDATE api_keys SET key_prefix = hex(zeroblob(40))", "key_prefix is not"},
		"key's name":       {"UPDATE api_keys SET name = char(27) || '[2J'", "name is not"},
	} {
		t.Run(name, func(t *testing.T) {
			rows := referencetest.Rows + "DELETE FROM machines WHERE id = 'a1b2c3d4e5f6'; DELETE FROM api_keys WHERE id <> 'V1StGXR8_Z5j';"
			path := referencetest.New(t, referencetest.Schema, rows, c.change)
			content, err := reference.Read(t.Context(), path, options)
			if err != nil {
				t.Fatal(err)
			}
			var wrong []string
			for _, m := range content.Machines {
				if m.Err != nil {
					wrong = append(wrong, m.Err.Error())
				}
			}
			for _, k := range content.Keys {
				if k.Err != nil {
					wrong = append(wrong, k.Err.Error())
				}
			}
			if got := strings.ReplaceAll(strings.Join(wrong, "; "), `"`, ""); len(wrong) != 1 || !strings.Contains(got, c.want) || strings.Contains(got, "secret") {
				t.Errorf("errors %q, want %q", got, c.want)
			}
		})
	}
}

// A key never becomes more than it was.
func TestReadScopes(t *testing.T) {
	path := referencetest.New(t, referencetest.Schema, referencetest.Rows,
		`UPDATE api_keys SET scopes = '["machines:read","admin","*:*"]' WHERE id = 'V1StGXR8_Z5j'; UPDATE api_keys SET scopes = '[]' WHERE id = 'expired-0001'`)
	c, err := reference.Read(t.Context(), path, options)
	if err != nil {
		t.Fatal(err)
	}
	if k := c.Keys[0]; k.Err != nil || !slices.Equal(k.Value.Scopes, auth.Scopes{auth.MachinesRead}) || len(k.Notes) != 2 {
		t.Errorf("scopes %v, notes %q, %v", k.Value.Scopes, k.Notes, k.Err)
	}
	if k := c.Keys[1]; k.Err != nil || len(k.Value.Scopes) != 0 || len(k.Notes) != 1 {
		t.Errorf("scopes %v, notes %q, %v", k.Value.Scopes, k.Notes, k.Err)
	}
}

// Rows that share what must be their own are wrong but for the first, in a
// file whose own rules do not see to it.
func TestReadDuplicates(t *testing.T) {
	loose := strings.NewReplacer("id text PRIMARY KEY", "id text", "key_hash text NOT NULL UNIQUE", "key_hash text").Replace(referencetest.Schema)
	path := referencetest.New(t, loose, referencetest.Rows, referencetest.Rows)
	c, err := reference.Read(t.Context(), path, options)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range c.Machines {
		if (m.Err != nil) != (i >= 2) {
			t.Errorf("machine %d, %s: %v", i, m.ID, m.Err)
		}
	}
	for i, k := range c.Keys {
		if (k.Err != nil) != (i >= 3) {
			t.Errorf("key %d, %s: %v", i, k.ID, k.Err)
		}
	}
}

func TestReadTooManyRows(t *testing.T) {
	path := referencetest.New(t, referencetest.Schema, `
		INSERT INTO api_keys (id, name, key_hash, key_prefix)
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100001)
		SELECT i, i, i, i FROM n`)
	if _, err := reference.Read(t.Context(), path, options); err == nil || !strings.Contains(err.Error(), "more than 100000 rows") {
		t.Errorf("error %v", err)
	}
}

func TestReadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := reference.Read(ctx, referencetest.New(t, referencetest.Schema), options); err == nil {
		t.Error("no error")
	}
}

// Whatever the bytes are, reading ends, with an error or with rows.
func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"PRAGMA page_size = 512", referencetest.Schema, referencetest.Rows} {
		if _, err := db.ExecContext(context.Background(), s); err != nil {
			f.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, []byte{})
	f.Add(100, []byte("\x05\xff"))
	f.Add(len(raw)-512, bytes.Repeat([]byte{0xff}, 64))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, at int, patch []byte) {
		changed := slices.Clone(raw)
		if at >= 0 && at < len(changed) {
			copy(changed[at:], patch)
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.db", os.Getpid()))
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := reference.Read(t.Context(), path, options)
		if err != nil {
			return
		}
		for _, m := range c.Machines {
			if m.Err == nil && m.Value.Spec.Validate(options.Limits) != nil {
				t.Errorf("%+v", m)
			}
		}
	})
}
