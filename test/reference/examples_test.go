//go:build vm

package reference

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// TestBasicExample makes the calls of the reference's first example program,
// with its cmd and its timeouts in milliseconds.
func TestBasicExample(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "/api/v1")
	image := imagetest.Registry(t).Push(t, "alpine:latest", busyboxImage(t))
	m := w.post("/machines", jsonOf(map[string]any{"name": "example-vm", "vcpu_count": 1, "mem_size_mib": 256, "image": image})).want(201).machine()
	w.post("/machines/"+m.ID+"/start", "").want(200)
	if got := w.get("/machines/" + m.ID).want(200).machine(); got.Status != "running" {
		t.Fatalf("after its start: %+v", got)
	}
	for _, c := range []struct {
		cmd  []string
		want string
	}{
		{[]string{"uname", "-a"}, "Linux"},
		{[]string{"hostname"}, ""},
		{[]string{"ls", "-la", "/"}, "etc"},
	} {
		if got := w.cmd(m.ID, 10000, c.cmd...); !strings.Contains(got.Stdout, c.want) || got.Stdout == "" {
			t.Errorf("%q: %+v", c.cmd, got)
		}
	}
	const content = "Hello from the host!\n"
	files := "/machines/" + m.ID + "/files"
	w.post(files, jsonOf(map[string]string{"path": "/tmp/hello.txt", "content": base64Of(content)})).want(200)
	if got := w.cmd(m.ID, 10000, "cat", "/tmp/hello.txt"); got.Stdout != content {
		t.Errorf("cat: %+v", got)
	}
	if got := w.download(m.ID, "/tmp/hello.txt"); got != content {
		t.Errorf("download: %q", got)
	}
	if got := w.get(files + "/stat?path=/tmp/hello.txt").want(200).object(); got["size"] != float64(len(content)) {
		t.Errorf("stat: %v", got)
	}
	w.post("/machines/"+m.ID+"/stop", "").want(200)
	w.delete("/machines/" + m.ID).want(204)
}

// TestFFmpegExample makes the calls of the reference's second example program.
// The image holds Debian's ffmpeg; its apk, whose packages are there already,
// stands in for Alpine's, since a test asks no host for packages.
func TestFFmpegExample(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "/api/v1")
	image := ffmpegImage(t, h)
	m := w.post("/machines", jsonOf(map[string]any{
		"name": "ffmpeg-example", "vcpu_count": 2, "mem_size_mib": 1024, "image": image, "image_size_mib": 2048,
		"network": map[string]bool{"enable": true},
	})).want(201).machine()
	w.post("/machines/"+m.ID+"/start", "").want(200)
	w.get("/machines/" + m.ID + "/wait?status=running&timeout=30").want(200)

	w.cmd(m.ID, 120000, "apk", "add", "--no-cache", "ffmpeg")
	for _, args := range []string{
		"-f lavfi -i testsrc=duration=2:size=160x120:rate=5 -f lavfi -i sine=frequency=440:duration=2 -c:v mpeg4 -c:a aac /tmp/input.mp4",
		"-i /tmp/input.mp4 -vf scale=80:60 -c:v mpeg4 -an /tmp/output.avi",
		"-i /tmp/input.mp4 -ss 1 -frames:v 1 /tmp/thumbnail.png",
		"-i /tmp/input.mp4 -vn -c:a pcm_s16le /tmp/audio.wav",
	} {
		argv := append([]string{"ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y"}, strings.Fields(args)...)
		w.cmd(m.ID, 120000, argv...)
	}
	for file, magic := range map[string]string{"/tmp/output.avi": "RIFF", "/tmp/thumbnail.png": "\x89PNG", "/tmp/audio.wav": "RIFF"} {
		if got := w.download(m.ID, file); !strings.HasPrefix(got, magic) {
			t.Errorf("%s begins with %.8q, want %q", file, got, magic)
		}
	}
	w.post("/machines/"+m.ID+"/stop", "").want(200)
	w.delete("/machines/" + m.ID).want(204)
}

// cmd runs a command as the examples do; it must succeed.
func (w wire) cmd(id string, milliseconds int, argv ...string) hyperfleet.ExecResult {
	w.t.Helper()
	got := w.post("/machines/"+id+"/exec", jsonOf(map[string]any{"cmd": argv, "timeout": milliseconds})).want(200).result()
	if got.ExitCode != 0 {
		w.t.Fatalf("%q: %+v", argv, got)
	}
	return got
}

func (w wire) download(id, path string) string {
	w.t.Helper()
	var file struct {
		Content string
		Size    int
	}
	w.get("/machines/" + id + "/files?path=" + path).want(200).into(&file)
	raw, err := base64.StdEncoding.DecodeString(file.Content)
	if err != nil || len(raw) != file.Size {
		w.t.Errorf("download of %s: %d bytes, size %d, %v", path, len(raw), file.Size, err)
	}
	return string(raw)
}

// ffmpegImage gives the host an image with Debian's ffmpeg and busybox. The
// packages are unpacked and not configured, which takes a third of the time; the
// two links are what their configuration would make.
func ffmpegImage(t *testing.T, h *hosttest.Host) string {
	t.Helper()
	rootfs := filepath.Join(t.TempDir(), "rootfs.tar")
	cmd := exec.CommandContext(t.Context(), "mmdebstrap", "--quiet", "--variant=extract", "--include=ffmpeg,busybox-static,base-files,base-passwd",
		`--extract-hook=chroot "$1" /bin/busybox --install -s /bin`,
		`--extract-hook=cd "$1"/usr/lib/*-linux-gnu && ln -s blas/libblas.so.3 lapack/liblapack.so.3 .`,
		"bookworm", rootfs)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v: %s", err, out)
	}
	base, err := os.ReadFile(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	apk := imagetest.Program("usr/local/bin/apk", []byte("#!/bin/sh\n[ \"$1\" = add ] || exit 1\nfor p; do :; done\ncommand -v \"$p\" >/dev/null\n"))
	img := imagetest.Image(t, v1.Config{}, base, imagetest.Tar(t, apk))
	layout := imagetest.LayoutOf(t, filepath.Join(t.TempDir(), "layout"), img)
	archive := exec.CommandContext(t.Context(), "tar", "-C", layout, "-cf", "-", ".")
	out, err := archive.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.Start(); err != nil {
		t.Fatal(err)
	}
	const name = "localhost/ffmpeg:test"
	if _, err := h.ImportImage(t.Context(), name, out); err != nil {
		t.Fatal(err)
	}
	if err := archive.Wait(); err != nil {
		t.Fatal(err)
	}
	return name
}
