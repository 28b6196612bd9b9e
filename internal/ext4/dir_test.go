package ext4

import (
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// The hashes are what debugfs says: dx_hash -h half_md4 [-s UUID] NAME.
func TestNameHash(t *testing.T) {
	uuid := [4]uint32{le.Uint32([]byte{0xde, 0xad, 1, 2}), le.Uint32([]byte{3, 4, 0x45, 6}), le.Uint32([]byte{0x87, 8, 9, 10}), le.Uint32([]byte{11, 12, 13, 14})}
	for name, want := range map[string][2]uint32{
		"a":                                {0x7d42f1c6, 0xd5fa7d7a},
		"lost+found":                       {0x1629e488, 0x591de422},
		"file-of-some-name-000001":         {0x9ee46e3a, 0x7765ec20},
		"12345678901234567890123456789012": {0x2cd8b72e, 0xfa6cc63e},
		"a-name-that-is-longer-than-thirty-two-bytes-and-than-sixty-four-bytes-too": {0xba01cc5e, 0x3b7e24e0},
	} {
		if got := nameHash(name, uuid); got != want[0] {
			t.Errorf("seeded hash of %q is %#x, want %#x", name, got, want[0])
		}
		if got := nameHash(name, [4]uint32{}); got != want[1] {
			t.Errorf("hash of %q is %#x, want %#x", name, got, want[1])
		}
	}
}

func TestPackLeavesMarksCollisions(t *testing.T) {
	long := string(make([]byte, MaxNameLen))
	entries := make([]dirent, 40)
	for i := range entries {
		entries[i] = dirent{hash: uint32(i/20) * 2, name: long}
	}
	// 15 entries of 264 bytes fit into a block; the 21st has the next hash.
	want := []dirLeaf{{0, 15, 0}, {15, 30, 1}, {30, 40, 3}}
	got := packLeaves(entries)
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("leaf %d is %v, want %v", i, got[i], want[i])
		}
	}
}

func TestCheckDirSize(t *testing.T) {
	const most = maxDirLeaves*(dirSpace-maxDirent+1) - 1
	if err := checkDirSize(most); err != nil {
		t.Error(err)
	}
	if err := checkDirSize(most + 1); errdefs.CodeOf(err) != "DIRECTORY_TOO_LARGE" {
		t.Errorf("got %v", err)
	}
}
