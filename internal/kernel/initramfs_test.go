package kernel_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/kernel"
)

var fakeModules = []kernel.Module{
	{File: "virtio.ko", Data: []byte("first")},
	{File: "virtio_blk.ko", Data: []byte("the second module")},
	{File: "failover.ko", Later: true},
	{File: "virtio_net.ko", Later: true},
}

func TestWriteInitramfs(t *testing.T) {
	var b, again bytes.Buffer
	for _, w := range []*bytes.Buffer{&b, &again} {
		if err := kernel.WriteInitramfs(w, []byte("#!init"), fakeModules); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the same arguments give other bytes")
	}
	golden := filepath.Join("testdata", "initramfs.golden")
	got := listCpio(t, b.Bytes())
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
}

func TestWriteSmallInitramfs(t *testing.T) {
	var ordinary, small, again bytes.Buffer
	for w, write := range map[*bytes.Buffer]func(io.Writer, []byte, []kernel.Module) error{
		&ordinary: kernel.WriteInitramfs, &small: kernel.WriteSmallInitramfs, &again: kernel.WriteSmallInitramfs,
	} {
		if err := write(w, []byte("#!init"), fakeModules); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(small.Bytes(), again.Bytes()) {
		t.Error("the same arguments give other bytes")
	}
	if !bytes.Equal(ordinary.Bytes(), unzip(t, small.Bytes())) {
		t.Error("it is not the ordinary archive compressed")
	}
}

func unzip(t *testing.T, packed []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWriteInitramfsFails(t *testing.T) {
	for _, write := range []func(io.Writer, []byte, []kernel.Module) error{kernel.WriteInitramfs, kernel.WriteSmallInitramfs} {
		if err := write(failingWriter{}, []byte("#!init"), nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("error %v, want the writer's", err)
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

// listCpio reads an archive as the kernel does, and fails unless every field
// that must be constant is.
func listCpio(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	for ino := 1; ; ino++ {
		if string(b[:6]) != "070701" {
			t.Fatalf("no header at entry %d", ino)
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		size, nameSize := field(6), field(11)
		name := string(b[110 : 110+nameSize-1])
		data := (110 + nameSize + 3) &^ 3
		if name == "TRAILER!!!" {
			return out.String()
		}
		if field(0) != ino || field(2) != 0 || field(3) != 0 || field(5) != 0 {
			t.Errorf("%s: ino %d uid %d gid %d mtime %d", name, field(0), field(2), field(3), field(5))
		}
		fmt.Fprintf(&out, "%06o %d %d,%d %s %q\n", field(1), field(4), field(9), field(10), name, b[data:data+size])
		b = b[(data+size+3)&^3:]
	}
}
