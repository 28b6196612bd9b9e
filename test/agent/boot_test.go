package agent_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestBootIsDoneOnceAndClockInEachSession(t *testing.T) {
	setups := make(chan string, 8)
	p := newPairWith(t, func(b guestproto.Boot) error { setups <- b.Hostname; return nil })
	if err := p.Ready(p.ctx()); err != nil {
		t.Fatal(err)
	}
	before := <-p.clock
	if off := time.Since(before).Abs(); off > limit {
		t.Errorf("clock is off by %v", off)
	}
	p.breakSession()
	<-p.clock
	if _, status := p.mustRun("true"); status.Code != 0 {
		t.Errorf("status %+v", status)
	}
	if name := <-setups; name != "test" || len(setups) != 0 {
		t.Errorf("set up as %q, and %d times more", name, len(setups))
	}
}

func TestBootErrorIsTold(t *testing.T) {
	p := newPairWith(t, func(guestproto.Boot) error { return errors.New("mount disks: no disk") })
	for range 2 {
		err := p.Ready(p.ctx())
		if errdefs.CodeOf(err) != guestproto.CodeBoot {
			t.Errorf("Ready = %v (%s)", err, errdefs.CodeOf(err))
		}
	}
}

func TestBootPanicIsTold(t *testing.T) {
	p := newPairWith(t, func(guestproto.Boot) error { panic("defect") })
	if err := p.Ready(p.ctx()); errdefs.CodeOf(err) != guestproto.CodeBoot {
		t.Errorf("Ready = %v", err)
	}
}

func TestShutdownTellsThenReboots(t *testing.T) {
	p := newPair(t)
	if err := p.Ready(p.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := p.Shutdown(p.ctx(), 3*time.Second); err != nil {
		t.Fatal(err)
	}
	if grace := <-p.shutdown; grace != 3*time.Second {
		t.Errorf("grace %v", grace)
	}
	select {
	case <-p.rebooted:
	case <-p.ctx().Done():
		t.Fatal("no reboot")
	}
	if _, _, _, err := p.run(machine.ExecRequest{Argv: []string{"true"}}); !errdefs.Is(err, errdefs.Unavailable) {
		t.Errorf("exec after shutdown: %v", err)
	}
}
