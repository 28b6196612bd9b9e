package debian_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/hyperfleet/hyperfleet/internal/kernel/debian"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian/debiantest"
)

var content = map[string][]byte{"boot/vmlinuz-1": []byte("kernel"), "etc/x": []byte("odd"), "usr/../../y": nil}

func TestWalk(t *testing.T) {
	data, err := debiantest.Tar(content)
	if err != nil {
		t.Fatal(err)
	}
	var zst bytes.Buffer
	w, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	gz, err := debiantest.Deb(content)
	if err != nil {
		t.Fatal(err)
	}
	xz, err := os.ReadFile(filepath.Join("testdata", "data.tar.xz")) // made by xz of the same archive
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string][]byte{
		"plain":      debiantest.Ar("debian-binary", []byte("2.0\n"), "data.tar", data),
		"gzip":       gz,
		"zstd":       debiantest.Ar("debian-binary", []byte("2.0\n"), "data.tar.zst/", zst.Bytes()),
		"xz":         debiantest.Ar("debian-binary", []byte("2.0\n"), "data.tar.xz", xz),
		"more after": debiantest.Ar("data.tar", data, "other", []byte("x")),
	}
	want := map[string]string{"boot/vmlinuz-1": "kernel", "etc/x": "odd", "y": ""}
	for name, file := range packages {
		t.Run(name, func(t *testing.T) {
			got, err := walk(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func walk(file []byte) (map[string]string, error) {
	got := map[string]string{}
	err := debian.Walk(bytes.NewReader(file), func(name string, _ *tar.Header, body io.Reader) error {
		b, err := io.ReadAll(body)
		got[name] = string(b)
		return err
	})
	return got, err
}

func TestWalkStops(t *testing.T) {
	file, err := debiantest.Deb(content)
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	seen := 0
	err = debian.Walk(bytes.NewReader(file), func(string, *tar.Header, io.Reader) error {
		seen++
		return stop
	})
	if !errors.Is(err, stop) || seen != 1 {
		t.Errorf("error %v after %d files", err, seen)
	}
}

func TestWalkRejects(t *testing.T) {
	good, err := debiantest.Deb(content)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(strings.Repeat("not a tar archive ", 100))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		file []byte
		want string
	}{
		"empty":        {nil, "not a Debian package"},
		"text":         {[]byte("#!/bin/sh -e\n"), "not a Debian package"},
		"no data":      {debiantest.Ar("debian-binary", []byte("2.0\n")), "read member header"},
		"too many":     {debiantest.Ar(members(20)...), "no member data.tar"},
		"cut":          {good[:len(good)-30], "EOF"},
		"cut header":   {good[:40], "read member header"},
		"bad size":     {bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1), "corrupt member header"},
		"bad end mark": {bytes.Replace(good, []byte("`\n"), []byte("x\n"), 1), "corrupt member header"},
		"no tar":       {debiantest.Ar("data.tar.gz", packed.Bytes()), "tar"},
		"lzma":         {debiantest.Ar("data.tar.lzma", []byte("\x5d\x00\x00\x00\x00\x00")), "lzma"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := walk(tt.file); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func members(n int) []any {
	var all []any
	for range n {
		all = append(all, "x", []byte{})
	}
	return all
}

func FuzzWalk(f *testing.F) {
	good, err := debiantest.Deb(content)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	data, err := debiantest.Tar(content)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(debiantest.Ar("data.tar", data))
	f.Fuzz(func(t *testing.T, file []byte) {
		stop := errors.New("enough")
		seen := 0
		err := debian.Walk(bytes.NewReader(file), func(name string, _ *tar.Header, body io.Reader) error {
			if name == "" || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") || name == ".." {
				t.Errorf("name %q", name)
			}
			if _, err := io.Copy(io.Discard, io.LimitReader(body, 1<<20)); err != nil {
				return err
			}
			if seen++; seen > 100 {
				return stop
			}
			return nil
		})
		if err == nil && seen > 100 {
			t.Error("an error of visit was lost")
		}
	})
}
