//go:build host

package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// TestHostDebian converts a Debian root filesystem with a second layer that
// umoci made of changes to it, and compares every file with what umoci unpacks.
func TestHostDebian(t *testing.T) {
	layout := debianLayout(t, imagetest.Gzip)
	bundle := filepath.Join(t.TempDir(), "bundle")
	imagetest.Run(t, "umoci", "unpack", "--image", layout+":latest", bundle)
	rootfs := filepath.Join(bundle, "rootfs")
	for _, args := range [][]string{
		{"rm", "-r", "/usr/share/doc", "/etc/motd"},
		{"ln", "/usr/bin/env", "/usr/bin/env2"},
		{"mv", "/usr/bin/dpkg", "/usr/bin/dpkg.real"},
		{"ln", "-s", "dpkg.real", "/usr/bin/dpkg"},
		{"setcap", "cap_net_raw+ep", "/usr/bin/perl"},
		{"chown", "1000:1001", "/opt"},
		{"mknod", "/srv/device", "c", "5", "1"},
		{"truncate", "-s", "100M", "/srv/sparse"},
	} {
		for i, a := range args[1:] {
			if strings.HasPrefix(a, "/") {
				args[i+1] = rootfs + a
			}
		}
		imagetest.Run(t, args[0], args[1:]...)
	}
	imagetest.Run(t, "umoci", "repack", "--image", layout+":changed", bundle)
	imagetest.Run(t, "umoci", "tag", "--image", layout+":changed", "latest")
	imagetest.Run(t, "umoci", "remove", "--image", layout+":changed")
	requireSameAsUmoci(t, layout, "latest", ".", "etc", "usr/share")
}

// TestHostTools imports what buildah, skopeo and umoci make of one image, and
// finds the same files in all.
func TestHostTools(t *testing.T) {
	dir := t.TempDir()
	buildah := func(args ...string) string {
		state := []string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}
		return strings.TrimSpace(imagetest.Run(t, "buildah", append(state, args...)...))
	}
	container := buildah("--log-level", "error", "from", "scratch")
	buildah("copy", "--chmod", "4755", container, "/bin/busybox", "/bin/busybox")
	buildah("config", "--env", "GREETING=hello there", "--cmd", "/bin/busybox", "--workingdir", "/srv",
		"--user", "5:6", "--volume", "/data", "--port", "80/tcp", "--label", "a=b", "--entrypoint", `["/bin/busybox","sh"]`, container)
	buildah("--log-level", "error", "commit", "--quiet", container, "oci:"+dir+"/first:latest")
	buildah("copy", container, "/etc/os-release", "/etc/os-release")
	buildah("--log-level", "error", "commit", "--quiet", container, "oci:"+dir+"/layout:latest")
	oci := dir + "/layout"
	imagetest.Run(t, "skopeo", "copy", "--quiet", "oci:"+oci+":latest", "docker-archive:"+dir+"/docker.tar:made/by:skopeo")
	imagetest.Run(t, "skopeo", "copy", "--quiet", "oci:"+oci+":latest", "oci-archive:"+dir+"/oci.tar:latest")
	zstd := zstdCopy(t, oci, dir+"/zstd")
	want := imagetest.Inventory(t, imagetest.Unpack(t, oci, "latest"))
	for _, path := range []string{oci, dir + "/oci.tar", dir + "/docker.tar", zstd} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s := openStore(t, nil)
			image, err := s.ImportPath(t.Context(), path, ImportRequest{Name: "tools:1"})
			if err != nil {
				t.Fatal(err)
			}
			got := imagetest.Inventory(t, imagetest.Mount(t, image.BasePath))
			got["."], want["."] = "", ""
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("base differs (-umoci +ours):\n%s", diff)
			}
			config := machine.ImageConfig{
				Env:        image.Config.Env,
				Entrypoint: []string{"/bin/busybox", "sh"}, Cmd: []string{"/bin/busybox"},
				WorkingDir: "/srv", User: "5:6", Volumes: []string{"/data"}, ExposedPorts: []string{"80/tcp"},
				Labels: image.Config.Labels, Architecture: image.Config.Architecture,
			}
			if diff := cmp.Diff(config, image.Config); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			if env := strings.Join(image.Config.Env, "\n"); !strings.Contains(env, "GREETING=hello there") || image.Config.Labels["a"] != "b" {
				t.Errorf("config is %+v", image.Config)
			}
		})
	}
}

// zstdCopy makes skopeo copy a layout with zstd layers to dir, and checks that
// it did. It returns dir.
func zstdCopy(t *testing.T, layout, dir string) string {
	t.Helper()
	imagetest.Run(t, "skopeo", "copy", "--quiet", "--dest-compress-format", "zstd", "--dest-compress-level", "20", "oci:"+layout+":latest", "oci:"+dir+":latest")
	blobs, err := filepath.Glob(dir + "/blobs/sha256/*")
	if err != nil {
		t.Fatal(err)
	}
	compressed := 0
	for _, path := range blobs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}) { // RFC 8878 3.1.1
			compressed++
		}
	}
	if compressed != len(blobs)-2 || compressed == 0 { // all but manifest and config
		t.Fatalf("skopeo made %d zstd layers, of %d blobs", compressed, len(blobs))
	}
	return dir
}

// TestHostRegistry pulls through TLS and Basic auth from Debian's registry what
// skopeo pushed there.
func TestHostRegistry(t *testing.T) {
	docker := imagetest.DockerRegistry(t)
	layout := layoutOf(t, imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", "1"))), imagetest.Gzip(t, imagetest.Tar(t, imagetest.Whiteout("", "a"))))
	ref := docker.Host + "/team/app:1"
	imagetest.Run(t, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", docker.User+":"+docker.Password,
		"oci:"+layout+":latest", "docker://"+ref)
	right := &machine.RegistryAuth{Username: docker.User, Password: docker.Password}

	s := openStore(t, func(o *Options) { o.RootCAs = docker.CAs })
	requireCode(t, resolve(t, s, ref, nil), "REGISTRY_UNAUTHORIZED")
	requireCode(t, resolve(t, s, ref, &machine.RegistryAuth{Username: docker.User, Password: "x"}), "REGISTRY_UNAUTHORIZED")
	requireCode(t, resolve(t, s, docker.Host+"/team/app:2", right), "IMAGE_NOT_FOUND")
	requireCode(t, resolve(t, s, docker.Host+"/no/such:1", right), "IMAGE_NOT_FOUND")
	lease, err := s.Resolve(t.Context(), machine.ImageRequest{Ref: ref, Auth: right})
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
	want := strings.TrimSpace(imagetest.Run(t, "skopeo", "inspect", "--tls-verify=false", "--creds", docker.User+":"+docker.Password, "--format", "{{.Digest}}", "docker://"+ref))
	if lease.Digest != want {
		t.Errorf("got %s, skopeo says %s", lease.Digest, want)
	}
	requireCode(t, resolve(t, s, ref, nil), "REGISTRY_UNAUTHORIZED")

	config := filepath.Join(t.TempDir(), "config.json")
	imagetest.Run(t, "skopeo", "login", "--authfile", config, "--tls-verify=false", "--username", docker.User, "--password", docker.Password, docker.Host)
	t.Setenv("DOCKER_CONFIG", filepath.Dir(config))
	t.Setenv("HOME", filepath.Dir(config))
	host := openStore(t, func(o *Options) { o.RootCAs, o.HostCredentials = docker.CAs, true })
	if err := resolve(t, host, ref, nil); err != nil {
		t.Errorf("with the host's credential file: %v", err)
	}

	requireCode(t, resolve(t, openStore(t, nil), ref, right), "REGISTRY_UNAVAILABLE")

	imagetest.Run(t, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", docker.User+":"+docker.Password,
		"oci:"+zstdCopy(t, layout, t.TempDir())+":latest", "docker://"+docker.Host+"/team/app:zstd")
	if err := resolve(t, s, docker.Host+"/team/app:zstd", right); err != nil {
		t.Errorf("zstd layers: %v", err)
	}
}

// TestHostDiskFull converts into a file system that is too small.
func TestHostDiskFull(t *testing.T) {
	dir := t.TempDir()
	imagetest.Run(t, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir)
	t.Cleanup(func() { imagetest.Run(t, "umount", dir) })
	r := newRig(t, nil)
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	requireCode(t, resolve(t, s, r.ref, nil), "DISK_FULL")
	requireEmpty(t, s)
	if left := s.list("ingest"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(s.path("lock")); err != nil {
		t.Error(err)
	}
}
