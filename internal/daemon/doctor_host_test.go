//go:build host

package daemon

import "testing"

// On a host of this tier nothing but a kernel and hyperfleet-init is missing,
// which the test's empty folders do not have.
func TestDoctorOnThisHost(t *testing.T) {
	configured(t, settings(t))
	results, err := Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		t.Logf("%+v", r)
		switch r.Name {
		case "qemu", "privileges", "network", "state folder", "run folder", "socket path":
			if r.Level != "ok" {
				t.Errorf("%s: %s (%s)", r.Name, r.Reason, r.Fix)
			}
		case "kernel":
			if r.Level != "fail" || r.Fix != "hyperfleet setup" {
				t.Errorf("a state folder without a kernel: %+v", r)
			}
		}
	}
}
