// Package config is the only reader of the daemon's environment: every
// variable, its default, and what it accepts. The values are checked here, so
// that a wrong one ends the program with a sentence that names the variable.
//
// Values come from the environment, from a file that HYPERFLEET_ENV_FILE or a
// flag names, and from flags: see Load. What is not here: the CLI's own few
// variables (package cli), and what the values are for (package daemon, its
// only caller). Config is a plain value.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Config is the daemon's configuration. The tags say all: the variable, its
// default, and in words what it accepts.
type Config struct {
	StateDir  string `env:"HYPERFLEET_STATE_DIR" envDefault:"/var/lib/hyperfleet" accepts:"an absolute path"`
	RunDir    string `env:"HYPERFLEET_RUN_DIR" envDefault:"/run/hyperfleet" accepts:"an absolute path of at most 88 bytes, since it holds sockets"`
	Database  string `env:"DATABASE_PATH" accepts:"a path; default hyperfleet.db in the state folder"`
	LogLevel  Level  `env:"HYPERFLEET_LOG_LEVEL" envDefault:"info" accepts:"debug, info, warn or error"`
	LogFormat string `env:"HYPERFLEET_LOG_FORMAT" envDefault:"text" accepts:"text or json"`

	Port        uint16 `env:"PORT" envDefault:"3000" accepts:"a TCP port, 1 to 65535"`
	DisableAuth string `env:"DISABLE_AUTH" accepts:"true, to let everybody in who reaches the port, without a key"`
	Listen      string `env:"HYPERFLEET_LISTEN" accepts:"the IP address that the port is opened on; default: all, once there is a key"`

	SocketGroup   string       `env:"HYPERFLEET_SOCKET_GROUP" accepts:"the name or number of the group that may use the API's unix socket; default: the daemon's own"`
	MetricsListen string       `env:"HYPERFLEET_METRICS_LISTEN" accepts:"where metrics are served: host:port, or unix:// and an absolute path; default: nowhere"`
	TLSCert       string       `env:"HYPERFLEET_TLS_CERT" accepts:"the path of a PEM certificate, with its chain, for the TCP listener; read again when it changes"`
	TLSKey        string       `env:"HYPERFLEET_TLS_KEY" accepts:"the path of the key of HYPERFLEET_TLS_CERT; both or none"`
	TLSSelfSigned bool         `env:"HYPERFLEET_TLS_SELF_SIGNED" envDefault:"false" accepts:"true, for a certificate that the daemon makes (tls/ca.crt in the state folder, for clients), without HYPERFLEET_TLS_CERT; false otherwise"`
	CORSOrigins   []string     `env:"HYPERFLEET_CORS_ORIGINS" accepts:"origins (https://app.example.com), separated by commas, whose web pages may call the API; or * for those of all, which is refused without authentication"`
	ProxyPort     uint16       `env:"PROXY_PORT" envDefault:"4000" accepts:"a TCP port, 1 to 65535; there is no reverse proxy yet" refused:"Invalid proxy configuration: PROXY_PORT must be a valid TCP port"`
	ProxyPrefix   string       `env:"PROXY_PREFIX" envDefault:"/proxy" accepts:"a path below which the reverse proxy answers; there is none yet" refused:"Invalid proxy configuration: PROXY_PREFIX must be a path of letters, digits and ._~-"`
	ProxySuffix   string       `env:"PROXY_HOST_SUFFIX" accepts:"a domain whose subdomains the reverse proxy answers for; there is none yet" refused:"Invalid proxy configuration: PROXY_HOST_SUFFIX must be a domain name"`
	ProxyPoll     Milliseconds `env:"PROXY_EXPOSED_PORT_POLL_INTERVAL_MS" envDefault:"10000" accepts:"milliseconds, 0 for once; there is no reverse proxy yet" refused:"Invalid proxy configuration: PROXY_EXPOSED_PORT_POLL_INTERVAL_MS must be an integer >= 0"`

	Runtime string `env:"HYPERFLEET_RUNTIME" envDefault:"auto" accepts:"auto or qemu"`
	QEMU    string `env:"HYPERFLEET_QEMU_BIN" accepts:"the QEMU system emulator; default: the one on PATH"`
	UIDBase uint32 `env:"HYPERFLEET_UID_BASE" envDefault:"900000" accepts:"a number; machines' VMMs run as this uid plus a small one, or as the daemon's own user for 0"`
	Init    string `env:"HYPERFLEET_INIT_PATH" accepts:"the path of hyperfleet-init; default: beside this program, or /usr/lib/hyperfleet"`

	Kernel      string   `env:"HYPERFLEET_KERNEL_IMAGE_PATH" accepts:"the path of a guest kernel; default: assets/vmlinux or .hyperfleet/vmlinux where the daemon is started, or the one of hyperfleet setup"`
	KernelArgs  string   `env:"HYPERFLEET_KERNEL_ARGS" accepts:"arguments that are added to every guest's kernel command line"`
	Rootfs      string   `env:"HYPERFLEET_ROOTFS_PATH" accepts:"the path of an ext4 file for machines without image; default: assets/alpine-rootfs.ext4 or .hyperfleet/alpine-rootfs.ext4 where the daemon is started, or none"`
	AllowedDirs []string `env:"HYPERFLEET_ALLOWED_DIRS" accepts:"absolute paths, separated by commas, of folders that callers may name kernels and root filesystems in"`

	ImageDir           string   `env:"HYPERFLEET_OCI_CACHE_DIR" accepts:"an absolute path; default images in the state folder"`
	ImageMaxBytes      int64    `env:"HYPERFLEET_OCI_MAX_CACHE_SIZE" envDefault:"10737418240" accepts:"a number of bytes above 0"`
	DiskMiB            int      `env:"HYPERFLEET_OCI_DEFAULT_ROOTFS_SIZE_MIB" envDefault:"1024" accepts:"a number of MiB, at least 64"`
	InsecureRegistries []string `env:"HYPERFLEET_INSECURE_REGISTRIES" accepts:"hosts, separated by commas, that plain HTTP is used for"`

	MaxVCPUs         int `env:"HYPERFLEET_MAX_VCPUS" envDefault:"32" accepts:"how many vCPUs one machine may have, 1 or more"`
	MaxMemMiB        int `env:"HYPERFLEET_MAX_MEM_MIB" envDefault:"1048576" accepts:"how much memory one machine may have in MiB, 64 or more"`
	MaxDiskMiB       int `env:"HYPERFLEET_MAX_DISK_MIB" envDefault:"1048576" accepts:"how large a machine's disk may be in MiB, 64 or more"`
	QuotaMachines    int `env:"HYPERFLEET_MAX_MACHINES" envDefault:"0" accepts:"how many machines there may be, or 0 for any number"`
	QuotaVCPUs       int `env:"HYPERFLEET_MAX_TOTAL_VCPUS" envDefault:"0" accepts:"how many vCPUs the machines that are up may have together, or 0 for any number"`
	QuotaMemMiB      int `env:"HYPERFLEET_MAX_TOTAL_MEM_MIB" envDefault:"0" accepts:"how much memory the machines that are up may have together in MiB, or 0 for any amount"`
	QuotaDiskMiB     int `env:"HYPERFLEET_MAX_TOTAL_DISK_MIB" envDefault:"0" accepts:"how large all machines' disks may be together in MiB, or 0 for any size"`
	KeyQuotaMachines int `env:"HYPERFLEET_KEY_MAX_MACHINES" envDefault:"0" accepts:"the same as HYPERFLEET_MAX_MACHINES, for each API key"`
	KeyQuotaVCPUs    int `env:"HYPERFLEET_KEY_MAX_VCPUS" envDefault:"0" accepts:"the same as HYPERFLEET_MAX_TOTAL_VCPUS, for each API key"`
	KeyQuotaMemMiB   int `env:"HYPERFLEET_KEY_MAX_MEM_MIB" envDefault:"0" accepts:"the same as HYPERFLEET_MAX_TOTAL_MEM_MIB, for each API key"`
	KeyQuotaDiskMiB  int `env:"HYPERFLEET_KEY_MAX_DISK_MIB" envDefault:"0" accepts:"the same as HYPERFLEET_MAX_TOTAL_DISK_MIB, for each API key"`

	MaxExecs          int `env:"HYPERFLEET_MAX_EXECS" envDefault:"4096" accepts:"how many commands may run at a time, or 0 for any number"`
	KeyMaxExecs       int `env:"HYPERFLEET_KEY_MAX_EXECS" envDefault:"1024" accepts:"the same as HYPERFLEET_MAX_EXECS, for each API key"`
	MaxPulls          int `env:"HYPERFLEET_MAX_PULLS" envDefault:"16" accepts:"how many pulls and imports of images may be under way at a time, or 0 for any number"`
	KeyMaxPulls       int `env:"HYPERFLEET_KEY_MAX_PULLS" envDefault:"8" accepts:"the same as HYPERFLEET_MAX_PULLS, for each API key"`
	MaxConns          int `env:"HYPERFLEET_MAX_CONNECTIONS" envDefault:"8192" accepts:"how many connections a listener may have, or 0 for any number"`
	MaxConnsOfAddress int `env:"HYPERFLEET_MAX_CONNECTIONS_PER_ADDRESS" envDefault:"1024" accepts:"how many of them one address may have, or 0 for any number; the loopback's are not counted"`

	BootTimeout Milliseconds `env:"HYPERFLEET_BOOT_TIMEOUT" envDefault:"60000" accepts:"milliseconds above 0"`
	StopGrace   Milliseconds `env:"HYPERFLEET_STOP_GRACE" envDefault:"10000" accepts:"milliseconds above 0"`

	FileMaxSize int64        `env:"HYPERFLEET_FILE_MAX_SIZE" envDefault:"104857600" accepts:"a number of bytes above 0"`
	FileTimeout Milliseconds `env:"HYPERFLEET_FILE_TRANSFER_TIMEOUT" envDefault:"60000" accepts:"milliseconds above 0"`

	ExecTimeout    Milliseconds `env:"HYPERFLEET_EXEC_DEFAULT_TIMEOUT" envDefault:"30000" accepts:"milliseconds above 0, for commands that name no timeout"`
	ExecMaxTimeout Milliseconds `env:"HYPERFLEET_EXEC_MAX_TIMEOUT" envDefault:"3600000" accepts:"milliseconds above 0; longer timeouts are shortened to it"`
	ExecMaxOutput  int64        `env:"HYPERFLEET_EXEC_MAX_OUTPUT" envDefault:"268435456" accepts:"a number of bytes above 0"`
	ExecGrace      Milliseconds `env:"HYPERFLEET_EXEC_REATTACH_GRACE" envDefault:"60000" accepts:"milliseconds above 0 that a streamed command waits for its client to come back"`

	OpenNetwork bool `env:"HYPERFLEET_ALLOW_UNGUARDED_NETWORK" envDefault:"false" accepts:"true, to give machines a network although guests could reach the host's own services through it; false otherwise"`

	NotifySocket  string `env:"NOTIFY_SOCKET" accepts:"set by systemd: where the daemon tells that it is ready"`
	WatchdogUSec  int64  `env:"WATCHDOG_USEC" envDefault:"0" accepts:"set by systemd: microseconds in which the daemon tells that it is alive; 0 for never"`
	JournalStream string `env:"JOURNAL_STREAM" accepts:"set by systemd: the log's lines then carry their level for journald, and no time"`
}

// Milliseconds is a duration that the environment gives in milliseconds.
type Milliseconds int64

// Duration converts it; what a Duration cannot hold becomes the longest one.
func (m Milliseconds) Duration() time.Duration {
	return time.Duration(min(int64(m), math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}

// Level is a log level.
type Level struct{ slog.Level }

// maxSocketPath is what a unix socket's address holds beside its final NUL
// (unix(7)).
const maxSocketPath = 107

// maxRunDir leaves room for "/run-PID.sock", with a PID of up to 9 digits, in
// a socket's path.
const maxRunDir = maxSocketPath - len("/run-123456789.sock")

// Parse reads the configuration from vars. Its error tells of every wrong one.
func Parse(vars map[string]string) (Config, error) {
	set := make(map[string]string, len(vars))
	for k, v := range vars {
		if v != "" { // an empty variable is an unset one
			set[k] = v
		}
	}
	var c Config
	unparsed, err := c.parse(set)
	if err != nil {
		return Config{}, err
	}
	c.setDefaults()
	return c, c.check(set, unparsed)
}

var (
	proxyPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+/?$`)
	proxySuffix = regexp.MustCompile(`^\.*[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\.?$`)
)

func (c *Config) setDefaults() {
	if c.Database == "" {
		c.Database = filepath.Join(c.StateDir, "hyperfleet.db")
	}
	if c.ImageDir == "" {
		c.ImageDir = filepath.Join(c.StateDir, "images")
	}
}

// parse sets the fields from vars, and names those that it could not.
func (c *Config) parse(vars map[string]string) (unparsed []string, err error) {
	err = env.ParseWithOptions(c, env.Options{Environment: vars})
	if err == nil {
		return nil, nil
	}
	all, ok := errors.AsType[env.AggregateError](err)
	if !ok {
		return nil, err
	}
	for _, e := range all.Errors {
		p, ok := errors.AsType[env.ParseError](e)
		if !ok {
			return nil, e
		}
		unparsed = append(unparsed, p.Name)
	}
	return unparsed, nil
}

// wrong tells what a variable accepts, in the words of the reference where it
// has some.
func wrong(f reflect.StructField, vars map[string]string) error {
	variable := f.Tag.Get("env")
	if words := f.Tag.Get("refused"); words != "" {
		return errors.New(words)
	}
	return fmt.Errorf("%s=%q: want %s", variable, vars[variable], f.Tag.Get("accepts"))
}

// check tells of the fields that could not be parsed, and of values that parse
// but make no sense.
func (c *Config) check(vars map[string]string, unparsed []string) error {
	rules := map[string]bool{
		"StateDir":       filepath.IsAbs(c.StateDir),
		"RunDir":         filepath.IsAbs(c.RunDir) && len(filepath.Clean(c.RunDir)) <= maxRunDir,
		"ImageDir":       filepath.IsAbs(c.ImageDir) || vars["HYPERFLEET_OCI_CACHE_DIR"] == "",
		"Port":           c.Port > 0,
		"LogFormat":      c.LogFormat == "text" || c.LogFormat == "json",
		"MetricsListen":  c.MetricsListen == "" || validListen(c.MetricsListen),
		"WatchdogUSec":   c.WatchdogUSec >= 0,
		"ProxyPort":      c.ProxyPort > 0,
		"ProxyPrefix":    proxyPrefix.MatchString(c.ProxyPrefix),
		"ProxySuffix":    c.ProxySuffix == "" || proxySuffix.MatchString(c.ProxySuffix),
		"ProxyPoll":      c.ProxyPoll >= 0,
		"Runtime":        c.Runtime == "auto" || c.Runtime == "qemu",
		"UIDBase":        c.UIDBase < 1<<31,
		"DiskMiB":        c.DiskMiB >= 64,
		"ImageMaxBytes":  c.ImageMaxBytes > 0,
		"MaxVCPUs":       c.MaxVCPUs >= 1,
		"MaxMemMiB":      c.MaxMemMiB >= 64,
		"MaxDiskMiB":     c.MaxDiskMiB >= 64,
		"BootTimeout":    c.BootTimeout > 0,
		"StopGrace":      c.StopGrace > 0,
		"FileMaxSize":    c.FileMaxSize > 0,
		"FileTimeout":    c.FileTimeout > 0,
		"ExecTimeout":    c.ExecTimeout > 0,
		"ExecMaxTimeout": c.ExecMaxTimeout > 0,
		"ExecMaxOutput":  c.ExecMaxOutput > 0,
		"ExecGrace":      c.ExecGrace > 0,
	}
	for name, n := range map[string]int{
		"QuotaMachines": c.QuotaMachines, "QuotaVCPUs": c.QuotaVCPUs, "QuotaMemMiB": c.QuotaMemMiB, "QuotaDiskMiB": c.QuotaDiskMiB,
		"KeyQuotaMachines": c.KeyQuotaMachines, "KeyQuotaVCPUs": c.KeyQuotaVCPUs, "KeyQuotaMemMiB": c.KeyQuotaMemMiB, "KeyQuotaDiskMiB": c.KeyQuotaDiskMiB,
		"MaxExecs": c.MaxExecs, "KeyMaxExecs": c.KeyMaxExecs, "MaxPulls": c.MaxPulls, "KeyMaxPulls": c.KeyMaxPulls,
		"MaxConns": c.MaxConns, "MaxConnsOfAddress": c.MaxConnsOfAddress,
	} {
		rules[name] = n >= 0
	}
	if _, err := netip.ParseAddr(c.Listen); err != nil {
		rules["Listen"] = c.Listen == ""
	}
	rules["TLSKey"] = (c.TLSKey == "") == (c.TLSCert == "")
	rules["TLSSelfSigned"] = !c.TLSSelfSigned || c.TLSCert == ""
	rules["CORSOrigins"] = validOrigins(c.CORSOrigins) && (!slices.Contains(c.CORSOrigins, "*") || !c.AuthDisabled())
	rules["AllowedDirs"] = !slices.ContainsFunc(c.AllowedDirs, func(dir string) bool { return !filepath.IsAbs(dir) })
	var errs []error
	for f := range reflect.TypeFor[Config]().Fields() {
		if good, ruled := rules[f.Name]; ruled && !good || slices.Contains(unparsed, f.Name) {
			errs = append(errs, wrong(f, vars))
		}
	}
	return errors.Join(errs...)
}

// validListen reports whether SplitListen can tell what address means.
func validListen(address string) bool {
	network, at := SplitListen(address)
	if network == "unix" {
		return filepath.IsAbs(at) && len(at) <= maxSocketPath
	}
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// SplitListen is the network, tcp or unix, and the address that a listener's
// variable names.
func SplitListen(address string) (network, at string) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return "unix", path
	}
	return "tcp", address
}

// Watchdog is the interval in which systemd wants to hear of us; 0 for never.
func (c *Config) Watchdog() time.Duration {
	return time.Duration(min(c.WatchdogUSec, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
}

// validOrigins reports whether each is an origin as browsers send it, or "*"
// stands alone.
func validOrigins(origins []string) bool {
	for _, o := range origins {
		u, err := url.Parse(o)
		exact := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && o == u.Scheme+"://"+strings.ToLower(u.Host)
		if !exact && (o != "*" || len(origins) > 1) {
			return false
		}
	}
	return true
}

// TLS reports whether the TCP listener speaks TLS.
func (c *Config) TLS() bool { return c.TLSCert != "" || c.TLSSelfSigned }

// TLSDir is where the daemon keeps a certificate of its own making.
func (c *Config) TLSDir() string { return filepath.Join(c.StateDir, "tls") }

// AuthDisabled reports whether the API asks for no key.
func (c *Config) AuthDisabled() bool { return c.DisableAuth == "true" }

// Address is where the API listens as soon as there is a key.
func (c *Config) Address() string { return net.JoinHostPort(c.Listen, fmt.Sprint(c.Port)) }

// LoopbackAddress is where the API listens before.
func (c *Config) LoopbackAddress() string {
	host := "127.0.0.1"
	if ip, err := netip.ParseAddr(c.Listen); err == nil && ip.IsLoopback() {
		host = c.Listen
	}
	return net.JoinHostPort(host, fmt.Sprint(c.Port))
}

// Socket is the path of the API's unix socket.
func (c *Config) Socket() string { return filepath.Join(c.RunDir, "api.sock") }

// KernelDir is where guest kernels are kept.
func (c *Config) KernelDir() string { return filepath.Join(c.StateDir, "kernel") }

// InitPath finds hyperfleet-init: where the configuration says, beside the
// running program, or where packages put it.
func (c *Config) InitPath() string {
	if c.Init != "" {
		return c.Init
	}
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), "hyperfleet-init")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return "/usr/lib/hyperfleet/hyperfleet-init"
}
