package initd

import (
	"fmt"
	"strconv"
	"strings"
)

// agentKey is the kernel parameter that says where the host is.
const agentKey = "hyperfleet.agent="

// endpoint is where the agent's channel leads to: a virtio-serial port or a
// vsock port of the host. The zero value is none.
type endpoint struct {
	serial string
	vsock  uint32
}

// parseEndpoint reads the kernel's command line; the last value wins.
func parseEndpoint(cmdline string) (endpoint, error) {
	var ep endpoint
	for word := range strings.FieldsSeq(cmdline) {
		value, ok := strings.CutPrefix(word, agentKey)
		if !ok {
			continue
		}
		kind, rest, _ := strings.Cut(value, ":")
		switch {
		case kind == "serial" && rest != "":
			ep = endpoint{serial: rest}
		case kind == "vsock":
			port, err := strconv.ParseUint(rest, 10, 32)
			if err != nil || port == 0 {
				return endpoint{}, fmt.Errorf("%s%s: bad port", agentKey, value)
			}
			ep = endpoint{vsock: uint32(port)}
		default:
			return endpoint{}, fmt.Errorf("%s%s: neither serial:NAME nor vsock:PORT", agentKey, value)
		}
	}
	return ep, nil
}
