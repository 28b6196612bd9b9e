//go:build vm

package kernel_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
)

// bootTimeout is far above a boot, which takes 1.5 s on two idle cores.
const bootTimeout = 2 * time.Minute

func TestGuestLoadsEveryModule(t *testing.T) {
	files := kerneltest.FloorBoot(t)
	console, _ := boot(t, files.KernelPath, files.InitrdPath, "")
	if strings.Count(console, "floor: loaded ") < 6 {
		t.Errorf("guest loaded too few modules:\n%s", console)
	}
	for _, want := range []string{"loaded virtio_blk.ko", "loaded overlay.ko", "loaded virtio_console.ko"} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
}

func BenchmarkBoot(b *testing.B) {
	files := kerneltest.FloorBoot(b)
	took := regexp.MustCompile(`loaded (\S+)\.ko (\d+) us`)
	for name, args := range map[string]string{"bare": "floor_bare", "modules": ""} {
		b.Run(name, func(b *testing.B) {
			var total time.Duration
			perModule := map[string]int{}
			for b.Loop() {
				console, d := boot(b, files.KernelPath, files.InitrdPath, args)
				total += d
				for _, m := range took.FindAllStringSubmatch(console, -1) {
					us, err := strconv.Atoi(m[2])
					if err != nil {
						b.Fatal(err)
					}
					perModule[m[1]] += us
				}
			}
			b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms/boot")
			for m, us := range perModule {
				b.ReportMetric(float64(us)/float64(b.N), "us/"+m)
			}
		})
	}
}

// boot runs one guest until it reboots, and returns its console.
func boot(tb testing.TB, kernel, initrd, args string) (string, time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), bootTimeout)
	defer cancel()
	qemu := qemuArgs(tb)
	start := time.Now()
	cmd := exec.CommandContext(ctx, qemu[0], append(qemu[1:],
		"-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-device", "virtio-serial-device", "-chardev", "null,id=c", "-device", "virtserialport,chardev=c,name=test",
		"-device", "virtio-rng-device",
		"-kernel", kernel, "-initrd", initrd,
		"-append", fmt.Sprintf("quiet panic=-1 reboot=t cryptomgr.notests noreplace-smp %s %s", clock(tb), args))...)
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Run(); err != nil {
		tb.Fatalf("boot guest: %v\n%s", err, console.String())
	}
	if !strings.Contains(console.String(), "floor: up") {
		tb.Fatalf("guest did not reach its init:\n%s", console.String())
	}
	return console.String(), time.Since(start)
}

func qemuArgs(tb testing.TB) []string {
	tb.Helper()
	switch runtime.GOARCH {
	case "amd64":
		return []string{"qemu-system-x86_64", "-M", "microvm", "-accel", "tcg"}
	case "arm64":
		return []string{"qemu-system-aarch64", "-M", "virt", "-cpu", "max", "-accel", "tcg"}
	}
	tb.Fatalf("no guests on %s", runtime.GOARCH)
	return nil
}

// clock is the console, and the TSC's frequency: an emulated guest cannot
// calibrate it on a busy host, and then hangs.
func clock(tb testing.TB) string {
	tb.Helper()
	if runtime.GOARCH != "amd64" {
		return "console=ttyAMA0"
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		tb.Fatal(err)
	}
	m := regexp.MustCompile(`cpu MHz\s*: ([0-9.]+)`).FindSubmatch(info)
	if m == nil {
		tb.Fatal("/proc/cpuinfo tells no frequency")
	}
	mhz, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		tb.Fatal(err)
	}
	return fmt.Sprintf("console=ttyS0 tsc_early_khz=%.0f", mhz*1000)
}
