package kernel

import (
	"bytes"
	"encoding/binary"
)

// signatureMarker ends a signed module (Linux, include/linux/module_signature.h).
const signatureMarker = "~Module signature appended~\n"

// signatureInfo is the size of struct module_signature, which comes before the
// marker; its last field is the size of the signature before it, a big-endian u32.
const signatureInfo = 12

// unsign returns module without its appended signature: to check it takes an
// emulated guest half of the time of loading a module. The kernel then notes
// (taint flag E) that a module is unsigned. What is loaded stays what was
// verified when the kernel was set up.
func unsign(module []byte) []byte {
	rest, ok := bytes.CutSuffix(module, []byte(signatureMarker))
	if !ok || len(rest) < signatureInfo {
		return module
	}
	size := uint64(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	rest = rest[:len(rest)-signatureInfo]
	if size > uint64(len(rest)) {
		return module
	}
	return rest[:uint64(len(rest))-size]
}

// takesUnsigned tells from a kernel's build configuration that it loads modules
// without a signature. An unknown configuration does not tell so.
func takesUnsigned(config []byte) bool {
	return bytes.Contains(config, []byte("\n# CONFIG_MODULE_SIG_FORCE is not set\n")) ||
		bytes.Contains(config, []byte("\n# CONFIG_MODULE_SIG is not set\n"))
}
