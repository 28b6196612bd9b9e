package machine

import (
	"crypto/rand"
	"math/big"
	"regexp"
	"time"
)

// ID names a machine: 12 characters of [0-9a-z], random, unique without
// coordination between hosts, and a valid DNS label.
type ID string

const idAlphabet = "0123456789abcdefghijklmnopqrstuvwxyz"

// NewID returns a random ID.
func NewID() ID {
	b := make([]byte, 12)
	for i := range b {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(idAlphabet))))
		if err != nil {
			panic(err) // crypto/rand never fails on a supported system
		}
		b[i] = idAlphabet[n.Int64()]
	}
	return ID(b)
}

var idPattern = regexp.MustCompile(`^[0-9a-z]{1,40}$`)

// ParseID checks a caller's id. Every path that is derived from an ID relies
// on this check.
func ParseID(s string) (ID, error) {
	if !idPattern.MatchString(s) {
		return "", NotFoundError(ID(s))
	}
	return ID(s), nil
}

// Spec is what a caller asks for. It is a plain value and never changes once
// the machine exists. It holds no secret.
type Spec struct {
	Name         string      `json:"name"`
	VCPUs        int         `json:"vcpu_count"`
	MemMiB       int         `json:"mem_size_mib"`
	Image        string      `json:"image,omitempty"`          // as the caller wrote it; "" boots Rootfs
	DiskMiB      int         `json:"image_size_mib,omitempty"` // size of the writable disk
	Network      NetworkSpec `json:"network"`
	ExposedPorts []uint16    `json:"exposed_ports,omitempty"`
	KernelPath   string      `json:"kernel_image_path,omitempty"` // "" means the configured one
	KernelArgs   string      `json:"kernel_args,omitempty"`       // appended to the driver's own
	RootfsPath   string      `json:"rootfs_path,omitempty"`       // ext4 base without image; "" means the configured one
	Env          []string    `json:"env,omitempty"`               // added to the image's, K=V
}

// NetworkSpec says whether the machine has an interface.
type NetworkSpec struct {
	Enable bool `json:"enable"`
}

// Machine is the record of one machine: what was asked for and what is so.
// It is a plain value; the Manager and the Store hand out copies.
type Machine struct {
	ID           ID
	HostID       string // which host owns the record
	Owner        string // id of the API key that made it; "" for local callers
	Spec         Spec
	State        State
	ErrorMessage string // why State is failed, public text; "" otherwise
	ErrorCode    string // stable code beside ErrorMessage
	ImageRef     string // normalized reference, once resolved
	ImageDigest  string // manifest digest, pinned at the first start; the disk belongs to it
	ImageConfig  ImageConfig
	Slot         int // small number, unique on the host; uid and addresses derive from it
	Process      *ProcessRef
	PortForwards []PortForward // live only while running
	CreatedAt    time.Time
	UpdatedAt    time.Time
	StartedAt    time.Time // zero when never started
}

// PortForward is a guest port that a port of the host's loopback leads to.
type PortForward struct {
	GuestPort uint16 `json:"guest_port"`
	HostPort  uint16 `json:"host_port"`
}

// ProcessRef identifies a process beyond the reuse of its pid.
type ProcessRef struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // field 22 of /proc/PID/stat, clock ticks since boot
	Exe       string `json:"exe"`        // target of /proc/PID/exe
	BootID    string `json:"boot_id"`    // /proc/sys/kernel/random/boot_id
}
