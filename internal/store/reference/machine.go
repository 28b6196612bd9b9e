package reference

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

var machineTable = table{"machines", []string{
	"id", "name", "status", "vcpu_count", "mem_size_mib", "pid", "config_json", "created_at", "updated_at",
	"rootfs_path", "tap_device", "tap_ip", "guest_ip", "guest_mac", "runtime_type", "image", "image_ref",
}}

// machineConfig is what is used of config_json. The registry's login is only
// looked for: it goes no further.
type machineConfig struct {
	ExposedPorts []float64 `json:"exposedPorts"`
	ImageRef     string    `json:"imageRef"`
	ImageSizeMib *float64  `json:"imageSizeMib"`
	RegistryAuth *struct{} `json:"registryAuth"`
}

// readMachine makes a machine that is stopped and was never started here: its
// first start makes its disk.
func readMachine(r row, o Options) Record[machine.Machine] {
	id, err := machine.ParseID(r.text("id"))
	if err != nil {
		r.fail("id is not 1 to 40 of 0-9 and a-z")
	}
	m := machine.Machine{
		ID: id, HostID: o.HostID, State: machine.Stopped,
		Spec: machine.Spec{
			Name: r.text("name"), VCPUs: r.count("vcpu_count"), MemMiB: r.count("mem_size_mib"),
			Image: r.text("image_ref"), DiskMiB: o.Limits.DefaultDiskMiB,
		},
		CreatedAt: r.time("created_at"), UpdatedAt: r.time("updated_at"),
	}
	r.readImage(&m.Spec)
	r.readNetwork(&m.Spec)
	if kind := r.text("runtime_type"); kind != "" && kind != "firecracker" {
		r.fail("runtime_type is %.40q: there are only microVMs here", kind)
	}
	if status := r.text("status"); status == "running" || status == "starting" || status == "paused" {
		r.note("it was %s: end its Firecracker process (pid %s) yourself", status, pid(r.values["pid"]))
	}
	if r.values["created_at"] == nil {
		r.fail("created_at is NULL")
	}
	if m.UpdatedAt.IsZero() {
		m.UpdatedAt = m.CreatedAt
	}
	if r.err == nil {
		r.err = m.Spec.Validate(o.Limits)
	}
	return Record[machine.Machine]{ID: label(r.values["id"]), Name: label(r.values["name"]), Value: m, Notes: r.notes, Err: r.err}
}

func pid(v any) string {
	if n, ok := v.(int64); ok {
		return strconv.FormatInt(n, 10)
	}
	return "unknown"
}

// readImage reads what the machine boots, and what config_json says.
func (r *row) readImage(spec *machine.Spec) {
	var c machineConfig
	if raw := r.text("config_json"); raw != "" && json.Unmarshal([]byte(raw), &c) != nil {
		r.fail("config_json is not what the reference writes") // its text may hold a password
		return
	}
	for _, ref := range []string{r.text("image"), c.ImageRef} {
		if spec.Image == "" {
			spec.Image = ref
		}
	}
	if c.ImageSizeMib != nil {
		spec.DiskMiB = r.whole("imageSizeMib", *c.ImageSizeMib)
	}
	for _, p := range c.ExposedPorts {
		if p < 1 || p > math.MaxUint16 || p != math.Trunc(p) {
			r.fail("exposedPorts has %g", p)
			return
		}
		spec.ExposedPorts = append(spec.ExposedPorts, uint16(p))
	}
	if c.RegistryAuth != nil {
		r.note("the login for its registry is dropped, since no password is stored here: log the daemon's user in there")
	}
	if spec.Image == "" {
		r.note("it shared the root filesystem %s with others: here it gets a disk of its own over HYPERFLEET_ROOTFS_PATH", label(r.values["rootfs_path"]))
	}
}

// readNetwork keeps that there is a network; where is ours to choose.
func (r *row) readNetwork(spec *machine.Spec) {
	ip, tap, tapIP, mac := r.text("guest_ip"), r.text("tap_device"), r.text("tap_ip"), r.text("guest_mac")
	if ip == "" && tap == "" && tapIP == "" && mac == "" {
		return
	}
	spec.Network.Enable = true
	r.note("its addresses are chosen anew: %s on %s is not kept", orNone(ip), orNone(tap))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return label(s)
}
