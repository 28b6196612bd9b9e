// Package buildinfo tells which build of Hyperfleet this is: the version that
// the linker was given, or else what the Go toolchain recorded. It is a leaf.
package buildinfo

import "runtime/debug"

// version is set by the linker: -X .../internal/buildinfo.version=v1.2.3.
var version string

// Version returns the build's version, "dev" when none was recorded.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
