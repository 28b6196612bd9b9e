package netconf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// The messages are what strace shows of "ip address replace" and "ip route
// replace" on a little-endian machine.
func TestMessages(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Fatal("the golden bytes are little-endian")
	}
	for name, tt := range map[string]struct {
		msg  message
		want string
	}{
		"link up": {linkUp(2), "20000000" + "1000" + "0500" + "00000000" + "00000000" + "00000000" + "02000000" + "01000000" + "01000000"},
		"address": {address(2, netip.MustParsePrefix("10.0.2.15/24")),
			"28000000" + "1400" + "0505" + "00000000" + "00000000" + "02180000" + "02000000" + "08000200" + "0a00020f" + "08000100" + "0a00020f"},
		"route": {defaultRoute(2, netip.MustParseAddr("10.0.2.2")),
			"2c000000" + "1800" + "0505" + "00000000" + "00000000" + "02000000" + "fe030001" + "00000000" + "08000500" + "0a000202" + "08000400" + "02000000"},
	} {
		if got := fmt.Sprintf("%x", tt.msg.encode()); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tt.want)
		}
	}
}

func TestAcknowledged(t *testing.T) {
	ack := func(errno int32) []byte {
		b := make([]byte, 36)
		binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_ERROR)
		binary.NativeEndian.PutUint32(b[16:], uint32(-errno))
		return b
	}
	if err := acknowledged(ack(0)); err != nil {
		t.Error(err)
	}
	if err := acknowledged(ack(int32(unix.EPERM))); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	for _, b := range [][]byte{nil, make([]byte, 19), make([]byte, 64)} {
		if err := acknowledged(b); !errors.Is(err, errShort) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}

func TestParse(t *testing.T) {
	cfg, err := Parse("10.0.2.15/24", "10.0.2.2")
	if err != nil || cfg.Address.String() != "10.0.2.15/24" || cfg.Gateway.String() != "10.0.2.2" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cfg, err := Parse("fd00::2/64", ""); err != nil || cfg.Gateway.IsValid() {
		t.Errorf("%+v, %v", cfg, err)
	}
	for _, bad := range [][2]string{{"", ""}, {"10.0.0.1", ""}, {"10.0.0.1/33", ""}, {"10.0.0.1/8", "x"}} {
		if cfg, err := Parse(bad[0], bad[1]); err == nil {
			t.Errorf("%q: %+v", bad, cfg)
		}
	}
}

func TestFirstInterface(t *testing.T) {
	dir := t.TempDir()
	for name, index := range map[string]string{"lo": "1", "eth1": "7", "eth0": "3"} {
		if err := errors.Join(os.Mkdir(dir+"/"+name, 0o755), os.WriteFile(dir+"/"+name+"/ifindex", []byte(index+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/bonding_masters", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if name, index, err := first(dir); name != "eth0" || index != 3 || err != nil {
		t.Errorf("%s %d %v", name, index, err)
	}
	if _, _, err := first(t.TempDir()); !errors.Is(err, errNoInterface) {
		t.Errorf("%v", err)
	}
}
