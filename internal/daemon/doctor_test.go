package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelFault(t *testing.T) {
	packed := make([]byte, 4096)
	copy(packed[0x202:], "HdrS")
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"vmlinuz": {packed, "compressed vmlinuz"},
		"text":    {[]byte(strings.Repeat("x", 4096)), "not an"},
		"empty":   {nil, "not an"},
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := kernelFault(path); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := kernelFault(filepath.Join(t.TempDir(), "none")); !strings.Contains(got, "no such file") {
		t.Errorf("no kernel: %q", got)
	}
	if got := kernelFault(""); got != "" {
		t.Errorf("none configured: %q", got)
	}
}
