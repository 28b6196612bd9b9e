package machine

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Bounds of a Spec that do not depend on the host.
const (
	maxNameLen       = 255
	maxImageRefLen   = 1024
	maxKernelArgsLen = 2048 // COMMAND_LINE_SIZE of x86, arch/x86/include/asm/setup.h
	maxPathLen       = 4096 // PATH_MAX
	maxPorts         = 64
	maxEnv           = 1024
	maxEnvBytes      = 128 << 10
	minMemMiB        = 4
	minDiskMiB       = 64
)

func invalid(format string, args ...any) error {
	return errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", format, args...)
}

// Validate checks everything of the spec that can be checked without the
// host's files. Limits of zero are not enforced. The error is errdefs.Invalid.
func (s Spec) Validate(l Limits) error {
	switch {
	case s.Name == "" || utf8.RuneCountInString(s.Name) > maxNameLen || !printable(s.Name):
		return invalid("name must be 1 to %d printable characters", maxNameLen)
	case s.VCPUs < 1 || above(s.VCPUs, l.MaxVCPUs):
		return invalid("vcpu_count must be 1 to %d", l.MaxVCPUs)
	case s.MemMiB < minMemMiB || above(s.MemMiB, l.MaxMemMiB):
		return invalid("mem_size_mib must be %d to %d", minMemMiB, l.MaxMemMiB)
	case s.DiskMiB < minDiskMiB || above(s.DiskMiB, l.MaxDiskMiB):
		return invalid("image_size_mib must be %d to %d", minDiskMiB, l.MaxDiskMiB)
	case len(s.Image) > maxImageRefLen || !printable(s.Image):
		return invalid("image must be at most %d printable characters", maxImageRefLen)
	case len(s.KernelArgs) > maxKernelArgsLen || !printable(s.KernelArgs):
		return invalid("kernel_args must be at most %d printable characters", maxKernelArgsLen)
	case len(s.ExposedPorts) > maxPorts:
		return invalid("exposed_ports must be at most %d", maxPorts)
	case slices.Contains(s.ExposedPorts, 0):
		return invalid("exposed_ports must be valid TCP ports")
	}
	for _, path := range []string{s.KernelPath, s.RootfsPath} {
		if err := checkPath(path); err != nil {
			return err
		}
	}
	return checkEnv(s.Env)
}

func above(v, limit int) bool { return limit > 0 && v > limit }

// normalized fills in defaults and drops what has no effect.
func (s Spec) normalized(l Limits) Spec {
	if s.DiskMiB == 0 {
		s.DiskMiB = l.DefaultDiskMiB
	}
	if s.Image != "" {
		s.RootfsPath = ""
	}
	s.Env = slices.Clone(s.Env)
	var ports []uint16
	for _, p := range s.ExposedPorts {
		if !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	s.ExposedPorts = ports
	return s
}

// checkPath refuses a caller's path that is not plainly absolute. Percent
// signs are refused in the encodings of "..": no kernel is called that.
func checkPath(path string) error {
	if path == "" {
		return nil
	}
	lower := strings.ToLower(path)
	for _, bad := range []string{"..", "\x00", "%00", "%2e%2e", "%252e%252e"} {
		if strings.Contains(lower, bad) {
			return errdefs.New(errdefs.Invalid, "PATH_TRAVERSAL_ERROR", "Path traversal attempt detected")
		}
	}
	if path[0] != '/' {
		return errdefs.New(errdefs.Invalid, "PATH_TRAVERSAL_ERROR", "Path must be absolute")
	}
	if len(path) > maxPathLen || !printable(path) {
		return invalid("path must be at most %d printable characters", maxPathLen)
	}
	return nil
}

func checkEnv(env []string) error {
	if len(env) > maxEnv {
		return invalid("env must be at most %d entries", maxEnv)
	}
	size := 0
	for _, kv := range env {
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" || strings.ContainsRune(kv, 0) {
			return invalid("env must be entries of the form NAME=value")
		}
		size += len(kv)
	}
	if size > maxEnvBytes {
		return invalid("env must be at most %d bytes", maxEnvBytes)
	}
	return nil
}

// printable reports whether s is UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
