package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// answer does one request and says "ok" and what came of it.
func answer(verb string, args []string) (string, error) {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch verb {
	case "hello":
		return "ok " + strconv.Itoa(os.Getpid()), nil
	case "clock":
		return clock()
	case "disks":
		return disks()
	case "read":
		return readDisk(arg(0), arg(1), arg(2))
	case "write":
		return "ok", writeDisk(arg(0), arg(1), arg(2))
	case "cat":
		b, err := os.ReadFile(arg(0))
		return "ok " + strings.TrimSpace(string(b)), err
	case "print":
		fmt.Println(strings.Join(args, " "))
		return "ok", nil
	case "flood":
		return "ok", flood(arg(0))
	case "listen":
		return "ok", listen(arg(0))
	case "dial":
		return dial(arg(0))
	case "reboot":
		unix.Sync()
		return "ok", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		return "ok", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	return "", errors.New("unknown verb")
}

// clock reads the guest's monotonic clock, in nanoseconds.
func clock() (string, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return "", err
	}
	return fmt.Sprintf("ok %d", ts.Nano()), nil
}

// disks lists name, serial, size in bytes and read-only flag of each disk.
func disks() (string, error) {
	paths, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return "", err
	}
	out := []string{"ok"}
	for _, p := range paths {
		field := func(name string) string {
			b, _ := os.ReadFile(filepath.Join(p, name))
			return strings.TrimSpace(string(b))
		}
		sectors, _ := strconv.ParseInt(field("size"), 10, 64)
		out = append(out, fmt.Sprintf("%s:%s:%d:%s", filepath.Base(p), field("serial"), sectors*512, field("ro")))
	}
	return strings.Join(out, " "), nil
}

func readDisk(dev, offset, size string) (string, error) {
	off, n, err := twoNumbers(offset, size)
	if err != nil {
		return "", err
	}
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		return "", err
	}
	return "ok " + hex.EncodeToString(b), nil
}

func writeDisk(dev, offset, data string) error {
	off, _, err := twoNumbers(offset, "0")
	if err != nil {
		return err
	}
	b, err := hex.DecodeString(data)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	return errors.Join(err, f.Sync(), f.Close())
}

func twoNumbers(a, b string) (x, y int64, err error) {
	if x, err = strconv.ParseInt(a, 10, 64); err != nil {
		return 0, 0, err
	}
	y, err = strconv.ParseInt(b, 10, 64)
	return x, y, err
}

// flood writes n bytes of text to the console.
func flood(n string) error {
	size, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	line := strings.Repeat("x", 127) + "\n"
	for size > 0 {
		w, err := io.WriteString(os.Stdout, line[:min(size, len(line))])
		if err != nil {
			return err
		}
		size -= w
	}
	return nil
}

// listen brings the interface up and serves an echo on a TCP port.
func listen(port string) error {
	if err := networkUp(); err != nil {
		return err
	}
	ln, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return nil
}

// dial says whether a TCP address can be connected to.
func dial(address string) (string, error) {
	if err := networkUp(); err != nil {
		return "", err
	}
	conn, err := net.DialTimeout("tcp4", address, 5*time.Second)
	if err != nil {
		return "ok closed", nil
	}
	conn.Close()
	return "ok open", nil
}

// networkUp gives eth0 the address that QEMU's user-mode network expects.
func networkUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, set := range []struct {
		request uint
		addr    []byte
	}{
		{unix.SIOCSIFADDR, []byte{10, 0, 2, 15}},
		{unix.SIOCSIFNETMASK, []byte{255, 255, 255, 0}},
	} {
		ifr, err := unix.NewIfreq("eth0")
		if err != nil {
			return err
		}
		if err := ifr.SetInet4Addr(set.addr); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(s, set.request, ifr); err != nil {
			return fmt.Errorf("set address: %w", err)
		}
	}
	ifr, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set interface up: %w", err)
	}
	return defaultRoute()
}

// defaultRoute sends everything through QEMU's gateway, by netlink.
func defaultRoute() error {
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	return addRoute(link.Index, [4]byte{10, 0, 2, 2})
}
