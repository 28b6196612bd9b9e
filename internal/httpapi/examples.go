package httpapi

import (
	"reflect"
	"time"

	"github.com/hyperfleet/hyperfleet"
)

// examples are what bodies look like, by their type: the document shows them
// wherever a body has that type, and the docs page sends them.
var examples = map[reflect.Type]any{
	reflect.TypeFor[createBody]():               hyperfleet.CreateMachineRequest{Name: "web", VCPUCount: 1, MemSizeMiB: 256, Image: "alpine:3.20", ExposedPorts: []int{80}},
	reflect.TypeFor[hyperfleet.Machine]():       exampleMachine,
	reflect.TypeFor[page[hyperfleet.Machine]](): page[hyperfleet.Machine]{Data: []hyperfleet.Machine{exampleMachine}, Total: 1},
	reflect.TypeFor[execBody]():                 hyperfleet.ExecRequest{Command: []string{"uname", "-a"}, Timeout: 10},
	reflect.TypeFor[hyperfleet.ExecResult]():    hyperfleet.ExecResult{Stdout: "Linux web 6.1.0 x86_64 Linux\n", ExecID: "c1"},
	reflect.TypeFor[hyperfleet.ExecOffsets]():   hyperfleet.ExecOffsets{Stdout: 4096},
	reflect.TypeFor[hyperfleet.ExecStatus]():    hyperfleet.ExecStatus{ExecID: "c1", Running: true},
	reflect.TypeFor[fileUpload]():               fileUpload{Path: "/root/hello.txt", Content: "aGVsbG8K"},
	reflect.TypeFor[fileContent]():              fileContent{Content: "aGVsbG8K", Size: 6},
	reflect.TypeFor[hyperfleet.WriteResult]():   hyperfleet.WriteResult{Success: true, BytesWritten: 6},
	reflect.TypeFor[hyperfleet.FileInfo](): hyperfleet.FileInfo{
		Path: "/root/hello.txt", Size: 6, Mode: "644", ModTime: "2026-01-02T15:04:05Z", Type: "file",
	},
	reflect.TypeFor[hyperfleet.MkdirRequest]():     hyperfleet.MkdirRequest{Path: "/srv/data", Mode: "755", Parents: true},
	reflect.TypeFor[hyperfleet.RenameRequest]():    hyperfleet.RenameRequest{From: "/root/hello.txt", To: "/root/bye.txt"},
	reflect.TypeFor[hyperfleet.PullRequest]():      hyperfleet.PullRequest{Image: "alpine:3.20"},
	reflect.TypeFor[hyperfleet.PullEvent]():        hyperfleet.PullEvent{Progress: &hyperfleet.PullProgress{Phase: "pull", Current: 1 << 20, Total: 3 << 20}},
	reflect.TypeFor[hyperfleet.PruneRequest]():     hyperfleet.PruneRequest{UnusedFor: 86400},
	reflect.TypeFor[hyperfleet.PruneResult]():      hyperfleet.PruneResult{Removed: []hyperfleet.Image{exampleImage}, BytesFreed: 8 << 20},
	reflect.TypeFor[hyperfleet.Image]():            exampleImage,
	reflect.TypeFor[hyperfleet.LogEntry]():         hyperfleet.LogEntry{Time: exampleTime, Source: "serial", Line: "Welcome to Alpine Linux 3.20"},
	reflect.TypeFor[hyperfleet.CreateKeyRequest](): hyperfleet.CreateKeyRequest{Name: "ci", Scopes: []string{hyperfleet.ScopeMachinesAll, hyperfleet.ScopeImagesRead}, ExpiresAt: &exampleExpiry},
	reflect.TypeFor[hyperfleet.CreatedKey]():       hyperfleet.CreatedKey{Key: exampleKey, Secret: "hf_9sXUeDlAcOFAOk2QnJMbv3gNvTjSx4bI"},
	reflect.TypeFor[hyperfleet.Key]():              exampleKey,
	reflect.TypeFor[page[hyperfleet.Key]]():        page[hyperfleet.Key]{Data: []hyperfleet.Key{exampleKey}, Total: 1},
	reflect.TypeFor[hyperfleet.Health]():           hyperfleet.Health{Status: "ok"},
	reflect.TypeFor[hyperfleet.Version]():          hyperfleet.Version{Version: "v1.2.3", Runtime: "qemu"},
}

var exampleTime = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

var exampleExpiry = exampleTime.AddDate(1, 0, 0)

var exampleKey = hyperfleet.Key{
	ID: "5kq2wz7ndtyb", Name: "ci", KeyPrefix: "hf_9sXUeDlA", Scopes: []string{hyperfleet.ScopeMachinesAll, hyperfleet.ScopeImagesRead},
	ExpiresAt: &exampleExpiry, LastUsedAt: &exampleTime, CreatedAt: exampleTime,
}

var exampleMachine = hyperfleet.Machine{
	ID: "k3x9v2m1q8zt", Name: "web", Status: hyperfleet.StatusRunning, RuntimeType: "qemu",
	VCPUCount: 1, MemSizeMiB: 256, KernelImagePath: "/var/lib/hyperfleet/kernel/vmlinuz",
	ImageRef:     nullable("docker.io/library/alpine:3.20"),
	ImageDigest:  nullable("sha256:1e42bbe2508154c9126d48c2b8a75420c3544343bf86fd041fb7527e017a4b4a"),
	Network:      &hyperfleet.Network{Enable: true},
	ExposedPorts: []int{80}, PortForwards: []hyperfleet.PortForward{{GuestPort: 80, HostPort: 42017}},
	PID: new(int(4711)), CreatedAt: exampleTime, UpdatedAt: exampleTime, StartedAt: &exampleTime,
}

var exampleImage = hyperfleet.Image{
	Ref:       "docker.io/library/alpine:3.20",
	Digest:    "sha256:1e42bbe2508154c9126d48c2b8a75420c3544343bf86fd041fb7527e017a4b4a",
	SizeBytes: 8 << 20, Config: hyperfleet.ImageConfig{Cmd: []string{"/bin/sh"}, Architecture: "amd64"},
	Refs: []string{"docker.io/library/alpine:3.20"}, InUse: true, CreatedAt: &exampleTime, LastUsedAt: &exampleTime,
}
