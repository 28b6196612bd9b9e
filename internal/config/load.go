package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/caarlos0/env/v11"
	"golang.org/x/sys/unix"
)

// EnvFile names the variable that names an environment file.
const EnvFile = "HYPERFLEET_ENV_FILE"

// Where a value comes from, the strongest last.
const (
	FromDefault     = "default"
	FromFile        = "file"
	FromEnvironment = "environment"
	FromFlag        = "flag"
)

// Sources says where Load looks, beside the process's environment.
type Sources struct {
	// EnvFile is a file of NAME=value lines; "" means that of the variable
	// HYPERFLEET_ENV_FILE, if any. No file is read that nobody named: a root
	// daemon does not take its settings from the folder it is started in.
	EnvFile string
	// Flags are variables that flags of the command line set.
	Flags map[string]string
	// Folder is where the reference's default kernel and root filesystem are
	// looked for; "" means nowhere.
	Folder string
}

// Loaded is a configuration with where it comes from.
type Loaded struct {
	Config
	Values   []Value  // of every variable, in the order of Variables
	Warnings []string // variables that do nothing
}

// ProxySettings names the variables of the reverse proxy that are set.
func (l *Loaded) ProxySettings() []string {
	var names []string
	for _, v := range l.Values {
		if strings.HasPrefix(v.Name, "PROXY_") && v.From != FromDefault {
			names = append(names, v.Name)
		}
	}
	return names
}

// Value is what one variable is in the end.
type Value struct{ Name, Value, From string }

// Load reads the configuration from s and the process's environment. Its error
// tells of every wrong value; Loaded tells as much as is known then.
func Load(s Sources) (Loaded, error) {
	return load(s, env.ToMap(os.Environ()))
}

func load(s Sources, environment map[string]string) (Loaded, error) {
	var l Loaded
	if s.EnvFile == "" {
		s.EnvFile = environment[EnvFile]
	}
	file := map[string]string{}
	if s.EnvFile != "" {
		var err error
		if file, err = readEnvFile(s.EnvFile); err != nil {
			return l, err
		}
	}
	l.Warnings = append(warnings(file, true), warnings(environment, false)...)
	vars, from := map[string]string{}, map[string]string{}
	for _, layer := range []struct {
		name string
		vars map[string]string
	}{{FromFile, file}, {FromEnvironment, environment}, {FromFlag, s.Flags}} {
		for name, value := range layer.vars {
			if value != "" { // an empty variable is an unset one
				vars[name], from[name] = value, layer.name
			}
		}
	}
	c, err := Parse(vars)
	l.Warnings = append(l.Warnings, c.findDefaults(s.Folder)...)
	c.anchor()
	l.Config = c
	l.Values = c.values(vars, from)
	return l, err
}

// defaultFolders are where the reference keeps its kernel and root filesystem,
// below the folder that it is started in.
var defaultFolders = []string{"assets", ".hyperfleet"}

// findDefaults looks for the files that the reference uses when it is told of
// none, and tells what it found.
func (c *Config) findDefaults(folder string) (found []string) {
	if folder == "" {
		return nil
	}
	for _, want := range []struct {
		path           *string
		name, variable string
	}{
		{&c.Kernel, "vmlinux", "HYPERFLEET_KERNEL_IMAGE_PATH"},
		{&c.Rootfs, "alpine-rootfs.ext4", "HYPERFLEET_ROOTFS_PATH"},
	} {
		for _, dir := range defaultFolders {
			path := filepath.Join(folder, dir, want.name)
			if *want.path != "" || !trusted(path) {
				continue
			}
			*want.path = path
			found = append(found, fmt.Sprintf("%s is not set: %s is used, since it is there", want.variable, path))
		}
	}
	return found
}

// anchor makes paths absolute that may be relative to the folder that the
// daemon is started in.
func (c *Config) anchor() {
	for _, path := range []*string{&c.Database, &c.Init, &c.Kernel, &c.Rootfs} {
		if abs, err := filepath.Abs(*path); *path != "" && err == nil {
			*path = abs
		}
	}
}

// trusted reports whether path is a file that belongs to us or to root and that
// nobody else can write or replace.
func trusted(path string) bool {
	for _, p := range []string{path, filepath.Dir(path)} {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil || st.Mode&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return false
		}
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// values lists what each variable is in the end.
func (c *Config) values(vars, from map[string]string) []Value {
	var list []Value
	config := reflect.ValueOf(c).Elem()
	for f, v := range config.Fields() {
		name := f.Tag.Get("env")
		value := Value{Name: name, Value: f.Tag.Get("envDefault"), From: FromDefault}
		if from[name] != "" {
			value.Value, value.From = vars[name], from[name]
		}
		if v.Kind() == reflect.String && v.String() != "" {
			value.Value = v.String() // perhaps a default that depends on others
		}
		list = append(list, value)
	}
	return list
}
