package cli

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

// MachineOptions describe a new machine, for create and run.
type MachineOptions struct {
	name     string
	cpus     int
	memory   int
	disk     int
	env      []string
	ports    []int
	network  bool
	username string
	kernel   string
	args     string
	rootfs   string
}

// AddFlags adds the options' flags.
func (o *MachineOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.name, "name", "", "name of the machine (default: that of the image)")
	f.IntVar(&o.cpus, "cpus", 1, "virtual CPUs")
	f.IntVarP(&o.memory, "memory", "m", 256, "memory in MiB")
	f.IntVar(&o.disk, "disk", 0, "writable disk in MiB (default: the server's, 1024)")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment variable K=V, or K to pass this process's own; may be repeated")
	f.IntSliceVarP(&o.ports, "publish", "p", nil, "port of the guest to expose; may be repeated")
	f.BoolVar(&o.network, "network", true, "give it a network interface")
	f.StringVar(&o.kernel, "kernel", "", "guest kernel on the server's host, in a folder that its operator allows")
	f.StringVar(&o.args, "kernel-args", "", "added to the kernel's command line")
	f.StringVar(&o.rootfs, "rootfs", "", "ext4 file on the server's host instead of an image, in a folder that its operator allows")
	f.StringVar(&o.username, "username", "", "user for the image's registry, with $HYPERFLEET_REGISTRY_PASSWORD")
}

// request is the machine that the options describe.
func (o *MachineOptions) request(g *globals, image string) (hyperfleet.CreateMachineRequest, error) {
	env, err := parseEnv(o.env, g.Getenv)
	name := o.name
	if name == "" {
		name = imageName(image)
	}
	return hyperfleet.CreateMachineRequest{
		Name: name, Image: image, VCPUCount: o.cpus, MemSizeMiB: o.memory, ImageSizeMiB: o.disk,
		Env: env, ExposedPorts: o.ports, RegistryAuth: g.registryAuth(o.username),
		KernelImagePath: o.kernel, KernelArgs: o.args, RootfsPath: o.rootfs,
		Network: &hyperfleet.NetworkRequest{Enable: o.network},
	}, err
}

// registryAuth is the login of the user, nil without one. The password is no
// flag: arguments are there for everybody to see.
func (g *globals) registryAuth(username string) *hyperfleet.RegistryAuth {
	if username == "" {
		return nil
	}
	return &hyperfleet.RegistryAuth{Username: username, Password: g.Getenv("HYPERFLEET_REGISTRY_PASSWORD")}
}

// imageName is a machine's name after its image: "docker.io/library/alpine:3"
// gives "alpine".
func imageName(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	name, _, _ := strings.Cut(path.Base(ref), ":")
	if name == "" || name == "." || name == "/" {
		return "machine"
	}
	return name
}

// parseEnv turns K=V and K into a map.
func parseEnv(list []string, getenv func(string) string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	env := make(map[string]string, len(list))
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if k == "" {
			return nil, fmt.Errorf("environment variable %q has no name", kv)
		}
		if !ok {
			v = getenv(k)
		}
		env[k] = v
	}
	return env, nil
}

func newCreateCommand(g *globals) *cobra.Command {
	var o MachineOptions
	cmd := &cobra.Command{
		Use: "create [IMAGE]", Short: "Create a machine without starting it", Args: cobra.MaximumNArgs(1),
		Long: "Create a machine without starting it, and print its id. Without an image it boots the file of\n--rootfs, or the server's own.",
		Example: `  hyperfleet create --name web -p 80 nginx:1.27
  hyperfleet create --cpus 2 -m 512 -e TERM -e MODE=test alpine
  hyperfleet create --name raw --rootfs /srv/images/base.ext4`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCreate(cmd.Context(), o, g, append(args, "")[0])
		},
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runCreate(ctx context.Context, o MachineOptions, g *globals, image string) error {
	req, err := o.request(g, image)
	if err != nil {
		return err
	}
	m, err := g.client().CreateMachine(ctx, req)
	if err != nil {
		return err
	}
	return g.print(m, m.ID)
}
