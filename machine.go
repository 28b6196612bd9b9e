package hyperfleet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Status is where a machine stands in its life.
type Status string

// The states of a machine.
const (
	StatusPending  Status = "pending"  // created, never started
	StatusStarting Status = "starting" // on its way up
	StatusRunning  Status = "running"  // its agent has answered
	StatusPaused   Status = "paused"   // its vCPUs stand still
	StatusStopping Status = "stopping" // on its way down
	StatusStopped  Status = "stopped"  // down, with its disk kept
	StatusFailed   Status = "failed"   // down; ErrorMessage says why
)

// Machine is one microVM as the server sees it. Fields that are null have no
// value in its present state.
type Machine struct {
	ID              string        `json:"id" doc:"Opaque id, a valid DNS label"`
	Name            string        `json:"name"`
	Status          Status        `json:"status" enum:"pending,starting,running,paused,stopping,stopped,failed"`
	RuntimeType     string        `json:"runtime_type" doc:"What runs it: firecracker or qemu"`
	VCPUCount       int           `json:"vcpu_count"`
	MemSizeMiB      int           `json:"mem_size_mib"`
	KernelImagePath string        `json:"kernel_image_path"`
	KernelArgs      *string       `json:"kernel_args"`
	RootfsPath      *string       `json:"rootfs_path" doc:"Null when the machine has an image"`
	ImageRef        *string       `json:"image_ref"`
	ImageDigest     *string       `json:"image_digest" doc:"Manifest digest, once resolved by the first start"`
	Network         *Network      `json:"network"`
	ExposedPorts    []int         `json:"exposed_ports,omitempty"`
	PID             *int          `json:"pid" doc:"Process of the VMM, while there is one"`
	CreatedAt       time.Time     `json:"created_at"`
	UpdatedAt       time.Time     `json:"updated_at"`
	StartedAt       *time.Time    `json:"started_at"`
	ErrorMessage    *string       `json:"error_message" doc:"Why status is failed"`
	ErrorCode       string        `json:"error_code,omitempty" doc:"Stable code beside error_message"`
	PortForwards    []PortForward `json:"port_forwards,omitempty" doc:"Loopback ports of the host that lead to exposed ports"`
}

// Network is the network interface of a machine.
type Network struct {
	Enable bool `json:"enable" doc:"The machine has an interface with egress"`
}

// PortForward is a port of the host's loopback that leads to a guest's port.
type PortForward struct {
	GuestPort int `json:"guest_port"`
	HostPort  int `json:"host_port"`
}

// CreateMachineRequest asks for a machine.
type CreateMachineRequest struct {
	Name            string            `json:"name" minLength:"1" maxLength:"255" doc:"Need not be unique"`
	VCPUCount       int               `json:"vcpu_count" minimum:"1"`
	MemSizeMiB      int               `json:"mem_size_mib" minimum:"4"`
	Image           string            `json:"image,omitempty" maxLength:"1024" doc:"OCI reference" example:"alpine:3.20"`
	ImageSizeMiB    int               `json:"image_size_mib,omitempty" minimum:"64" doc:"Size of the machine's writable disk; default 1024"`
	RegistryAuth    *RegistryAuth     `json:"registry_auth,omitempty" doc:"Login for the image's registry; never stored"`
	Network         *NetworkRequest   `json:"network,omitempty" doc:"Absent means an interface with egress"`
	ExposedPorts    []int             `json:"exposed_ports,omitempty" maxItems:"256" doc:"TCP ports of the guest that may be reached, 1..65535"`
	Env             map[string]string `json:"env,omitempty" doc:"Environment of every command, added to the image's"`
	KernelImagePath string            `json:"kernel_image_path,omitempty" maxLength:"4095" doc:"Guest kernel, in a folder that the operator allows"`
	KernelArgs      string            `json:"kernel_args,omitempty" maxLength:"2048" doc:"Added to the kernel's command line"`
	RootfsPath      string            `json:"rootfs_path,omitempty" maxLength:"4095" doc:"ext4 file to boot without image, in a folder that the operator allows"`
}

// NetworkRequest says which network a machine gets. Host devices and guest
// addresses are the server's choice.
type NetworkRequest struct {
	Enable bool `json:"enable,omitempty" doc:"An interface with egress"`
}

// RegistryAuth is a registry login.
type RegistryAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// String redacts the login.
func (RegistryAuth) String() string { return "[redacted]" }

// GoString redacts the login.
func (RegistryAuth) GoString() string { return "[redacted]" }

// CreateMachine records a new machine in state pending. It starts nothing.
func (c *Client) CreateMachine(ctx context.Context, req CreateMachineRequest, options ...CallOption) (Machine, error) {
	var m Machine
	err := c.do(ctx, call{method: http.MethodPost, path: "/machines", in: req}.with(options), &m)
	return m, err
}

// ListOptions narrows a list. Its zero value lists everything.
type ListOptions struct {
	Status Status
	Limit  int // 0 means all
	Offset int
}

// ListMachines lists machines, the newest first.
func (c *Client) ListMachines(ctx context.Context, o ListOptions) ([]Machine, error) {
	var list []Machine
	err := c.do(ctx, o.call(), &list)
	return list, err
}

func (o ListOptions) call() call {
	query := url.Values{}
	if o.Status != "" {
		query.Set("status", string(o.Status))
	}
	if o.Limit > 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Offset > 0 {
		query.Set("offset", strconv.Itoa(o.Offset))
	}
	return call{method: http.MethodGet, path: "/machines", query: query}
}

// ListMachinesPage is ListMachines with how many there are without Limit and
// Offset.
func (c *Client) ListMachinesPage(ctx context.Context, o ListOptions) (list []Machine, total int, err error) {
	resp, err := c.send(ctx, o.call())
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, 0, fmt.Errorf("decode the list of machines: %w", err)
	}
	total, err = strconv.Atoi(resp.Header.Get("X-Total-Count"))
	if err != nil {
		return nil, 0, fmt.Errorf("decode the number of machines: %w", err)
	}
	return list, total, nil
}

// defaultPage is how many machines an iteration asks for at a time.
const defaultPage = 100

// Machines yields machines page by page, the newest first: those of o.Status,
// from o.Offset on, o.Limit at a time (0 means 100). Each comes once; of those
// that are created or deleted meanwhile, some may be missing. An error is the
// last thing that it yields.
func (c *Client) Machines(ctx context.Context, o ListOptions) iter.Seq2[Machine, error] {
	if o.Limit <= 0 {
		o.Limit = defaultPage
	}
	return func(yield func(Machine, error) bool) {
		seen := map[string]bool{} // a new machine shifts the others to the next page
		for page := o; ; page.Offset += page.Limit {
			list, err := c.ListMachines(ctx, page)
			if err != nil {
				yield(Machine{}, err)
				return
			}
			for _, m := range list {
				if seen[m.ID] {
					continue
				}
				seen[m.ID] = true
				if !yield(m, nil) {
					return
				}
			}
			if len(list) < page.Limit {
				return
			}
		}
	}
}

// Machine returns one machine.
func (c *Client) Machine(ctx context.Context, id string) (Machine, error) {
	return c.machine(ctx, call{method: http.MethodGet, path: machinePath(id)})
}

// WaitMachine returns the machine as soon as it has the status. The server
// gives up with ErrTimeout after timeout, which is 1 to 30 seconds; 0 means 30.
func (c *Client) WaitMachine(ctx context.Context, id string, status Status, timeout time.Duration) (Machine, error) {
	query := url.Values{"status": {string(status)}}
	if timeout > 0 {
		query.Set("timeout", strconv.FormatFloat(timeout.Seconds(), 'f', -1, 64))
	}
	return c.machine(ctx, call{method: http.MethodGet, path: machinePath(id, "wait"), query: query})
}

// StartMachine brings a machine up, and returns it once its guest has
// answered. A running machine is returned as it is.
func (c *Client) StartMachine(ctx context.Context, id string, options ...CallOption) (Machine, error) {
	return c.machine(ctx, call{method: http.MethodPost, path: machinePath(id, "start")}.with(options))
}

// StopMachine shuts a machine down and keeps its disk.
func (c *Client) StopMachine(ctx context.Context, id string, options ...CallOption) (Machine, error) {
	return c.machine(ctx, call{method: http.MethodPost, path: machinePath(id, "stop")}.with(options))
}

// RestartMachine stops a machine and starts it again.
func (c *Client) RestartMachine(ctx context.Context, id string, options ...CallOption) (Machine, error) {
	return c.machine(ctx, call{method: http.MethodPost, path: machinePath(id, "restart")}.with(options))
}

// PauseMachine stops a running machine's vCPUs; its memory and its VMM stay. A
// paused machine is returned as it is. What its guest was doing goes on at
// ResumeMachine; a buffered Exec of that time may end with ErrGuest.
func (c *Client) PauseMachine(ctx context.Context, id string, options ...CallOption) (Machine, error) {
	return c.machine(ctx, call{method: http.MethodPost, path: machinePath(id, "pause")}.with(options))
}

// ResumeMachine lets a paused machine go on; its guest's clock is set before
// any command runs. A running machine is returned as it is.
func (c *Client) ResumeMachine(ctx context.Context, id string, options ...CallOption) (Machine, error) {
	return c.machine(ctx, call{method: http.MethodPost, path: machinePath(id, "resume")}.with(options))
}

// DeleteMachine ends a machine, whatever its state, and removes it with its disk.
func (c *Client) DeleteMachine(ctx context.Context, id string, options ...CallOption) error {
	return c.do(ctx, call{method: http.MethodDelete, path: machinePath(id)}.with(options), nil)
}

// Console returns the bounded record of a machine's serial console byte for
// byte: of the run that is on, else what its log has kept. The caller closes it.
// See MachineLogs for lines, and to follow them.
func (c *Client) Console(ctx context.Context, id string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: machinePath(id, "console")})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (c *Client) machine(ctx context.Context, q call) (Machine, error) {
	var m Machine
	err := c.do(ctx, q, &m)
	return m, err
}

func machinePath(id string, rest ...string) string {
	parts := []string{"", "machines", url.PathEscape(id)}
	for _, r := range rest {
		parts = append(parts, url.PathEscape(r))
	}
	return strings.Join(parts, "/")
}
