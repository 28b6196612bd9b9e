package qemu

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	accelKVM = "kvm"
	accelTCG = "tcg"
)

// accelerator chooses KVM only where it is usable. Some hosts show a software
// /dev/kvm on which every check passes and an ordinary kernel then hangs; on
// x86 the CPU must have virtualization too. reason is empty for KVM.
func accelerator(goarch, device, cpuinfo string) (accel, reason string) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return accelTCG, fmt.Sprintf("KVM cannot be used: %v", err)
	}
	f.Close()
	if goarch != "amd64" {
		return accelKVM, ""
	}
	info, err := os.ReadFile(cpuinfo)
	if err != nil {
		return accelTCG, fmt.Sprintf("CPU features cannot be read: %v", err)
	}
	if !hasVirtualization(string(info)) {
		return accelTCG, device + " is there but the CPU shows neither vmx nor svm: a software KVM that ordinary kernels hang on"
	}
	return accelKVM, ""
}

func hasVirtualization(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		key, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(flags) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
	}
	return false
}
