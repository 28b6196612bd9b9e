// Package qemu runs machines under QEMU: machine.Driver for hosts without
// usable KVM, and for those that have it and no Firecracker.
//
// # What is here
//
// Driver and its VMs, which implement the contract in package machine; the
// command line of one boot (args.go), where the process's files come from
// (files.go), and a client of QEMU's monitor protocol (monitor.go). What is
// not: images, the guest's session, and the fence round user-mode networking
// (package network). The daemon is the caller. Everything is safe for
// concurrent use.
//
// # How a VMM runs
//
// QEMU outlives the daemon. It runs as a user of its own that can open nothing:
// disks, kernel and listening sockets are descriptors that it inherits. It
// starts with its vCPUs stopped; they run once the console is connected, so
// that no line is lost. The run directory belongs to the daemon's user:
//
//	agent.sock     the guest's agent port
//	console.sock   the serial console
//	monitor.sock   QMP
//	console.log*   the bounded record of the console
//	vmm.json       the process, and the ports of its forwards
package qemu
