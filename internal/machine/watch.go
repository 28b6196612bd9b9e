package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// watch sees to a VMM that ends by itself. The machine's lock is held; the
// watcher ends when somebody takes the VMM out of the entry.
func (m *Manager) watch(e *entry, l *live) {
	m.mu.Lock()
	e.refs++
	m.mu.Unlock()
	err := m.spawn(func() {
		defer m.unref(e)
		select {
		case <-l.vm.Done():
		case <-l.quit:
			return
		case <-m.ctx.Done():
			return
		}
		select {
		case e.sem <- struct{}{}:
			defer e.unlock()
			m.ended(e, l)
		case <-l.quit: // whoever holds the lock takes the machine down
		case <-m.ctx.Done():
		}
	})
	if err != nil { // the next daemon finds what has become of it
		m.unref(e)
	}
}

// ended records the end of a VMM that nobody asked for, and clears up.
func (m *Manager) ended(e *entry, l *live) {
	if e.current() != l {
		return
	}
	e.take()
	defer e.closeLog(m)
	ctx := context.WithoutCancel(m.ctx)
	tail := consoleTail(l.vm) // before release removes it
	err := errors.Join(l.guest.Close(), l.vm.Close())
	mc, readErr := m.cfg.Store.Machine(ctx, e.id)
	if readErr == nil {
		err = errors.Join(err, m.release(ctx, &mc), m.recordEnd(ctx, e, &mc, l.vm.Exit(), tail))
	}
	if err = errors.Join(err, readErr); err != nil {
		m.cfg.Log.Error("clear up after a VMM that ended", "machine", e.id, "err", err)
	}
}

// recordEnd makes a machine stopped whose guest powered off, else failed.
func (m *Manager) recordEnd(ctx context.Context, e *entry, mc *Machine, exit Exit, tail string) error {
	mc.Process, mc.PortForwards = nil, nil
	if clean(exit, tail) {
		m.cfg.Observer.VMMEnded(VMMPoweredOff)
		m.cfg.Log.Info("guest powered off", "machine", mc.ID)
		e.note("the guest powered itself off: machine is stopped")
		return m.enter(ctx, mc, Stopped)
	}
	m.cfg.Observer.VMMEnded(VMMFailed)
	err := exitError(exit, "ended unexpectedly")
	m.cfg.Log.Warn("machine failed", "machine", mc.ID, "err", err)
	e.note("machine failed: " + errdefs.Public(err))
	return m.fail(ctx, mc, err)
}

// clean reports whether the guest ended its VMM on purpose. A panic reboots
// the guest too, and of an adopted VMM there is no status: both are told by
// what the kernel said, which for a reboot is its last line
// (kernel/reboot.c: "reboot: Restarting system", "reboot: Power down").
func clean(exit Exit, tail string) bool {
	if strings.Contains(exit.Console, "Kernel panic") {
		return false
	}
	if !exit.Known {
		return strings.Contains(tail, "reboot: ")
	}
	return exit.Code == 0 && exit.Signal == ""
}

func exitError(exit Exit, how string) error {
	status := ""
	switch {
	case !exit.Known:
	case exit.Signal != "":
		status = " by " + exit.Signal
	default:
		status = fmt.Sprintf(" with status %d", exit.Code)
	}
	return errdefs.New(errdefs.Runtime, "VMM_EXITED", "the VMM %s%s%s", how, status, quoted(exit.Console))
}

// maxLine bounds what of the guest's console becomes part of a message.
const maxLine = 200

// quoted is ": " and the line, without what a terminal might obey.
func quoted(line string) string {
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(line, ""))
	if line = strings.TrimSpace(line); line == "" {
		return ""
	}
	if runes := []rune(line); len(runes) > maxLine {
		line = string(runes[:maxLine]) + "…"
	}
	return ": " + line
}

// consoleTail is the last line of the VM's console, "" when there is none.
func consoleTail(vm VM) string {
	f, err := vm.Console()
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 4096
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		if _, err := f.Seek(-tail, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
