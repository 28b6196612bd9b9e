package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/console"
	"github.com/hyperfleet/hyperfleet/internal/vmm/process"
)

// vm is a QEMU that runs. Two goroutines serve it until it ends or is closed:
// one writes the console's record, one waits for the process.
type vm struct {
	id       machine.ID
	dir      string
	proc     *process.Process
	rec      *console.Record
	tee      io.Writer // gets the console too; nil when nobody wants it
	conn     net.Conn  // the console
	output   *os.File  // QEMU's own; nil when it could not be found
	forwards []machine.PortForward

	stop    context.CancelFunc
	wg      sync.WaitGroup
	pumped  chan struct{} // closed when the console has ended
	done    chan struct{} // closed when the process has
	closed  chan struct{} // closed when Close has begun
	closing sync.Once
	exit    machine.Exit  // valid once done is closed
	turn    chan struct{} // holds a token while a monitor conversation runs
}

// watch makes a vm of its parts, which it takes over.
func watch(cfg machine.VMConfig, proc *process.Process, rec *console.Record, conn net.Conn, output *os.File) *vm {
	ctx, cancel := context.WithCancel(context.Background())
	v := &vm{
		id: cfg.ID, dir: cfg.RunDir, proc: proc, rec: rec, tee: cfg.Console, conn: conn, output: output, stop: cancel,
		pumped: make(chan struct{}), done: make(chan struct{}), closed: make(chan struct{}),
		turn: make(chan struct{}, 1),
	}
	v.wg.Go(v.pump)
	v.wg.Go(func() { v.await(ctx) })
	return v
}

// pump records the console until QEMU hangs up.
func (v *vm) pump() {
	defer close(v.pumped)
	var w io.Writer = v.rec
	if v.tee != nil {
		w = io.MultiWriter(v.rec, v.tee)
	}
	// Without the wrapper io.Copy would bypass the record's own bounds.
	_, _ = io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{v.conn})
}

// await publishes how the process ended.
func (v *vm) await(ctx context.Context) {
	status, err := v.proc.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		return // closed before it ended
	}
	// What QEMU wrote before it ended is still in the socket.
	_ = v.conn.SetReadDeadline(time.Now().Add(time.Second))
	<-v.pumped
	v.exit = machine.Exit{
		Known: status.Known, Code: status.Code, Signal: status.Signal,
		Console: v.lastWords(status), At: time.Now(),
	}
	close(v.done)
}

// lastWords prefers QEMU's own complaint, when it ended by one, to its guest's.
func (v *vm) lastWords(s process.Status) string {
	own := console.LastLine(readOutput(v.output))
	if own != "" && s.Known && s.Code > 0 {
		return own
	}
	if line := v.rec.LastLine(); line != "" {
		return line
	}
	return own
}

func (v *vm) Process() machine.ProcessRef { return machine.ProcessRef(v.proc.Identity()) }

func (v *vm) PortForwards() []machine.PortForward { return slices.Clone(v.forwards) }

func (v *vm) DialAgent(ctx context.Context) (net.Conn, error) {
	if err := v.alive(); err != nil {
		return nil, err
	}
	conn, err := dial(ctx, v.dir, agentSocket)
	if err != nil {
		return nil, v.explain(err)
	}
	return conn, nil
}

func (v *vm) Done() <-chan struct{} { return v.done }

func (v *vm) Exit() machine.Exit {
	if !v.ended() {
		return machine.Exit{}
	}
	return v.exit
}

func (v *vm) Pause(ctx context.Context) error { return v.command(ctx, "stop") }

func (v *vm) Resume(ctx context.Context) error { return v.command(ctx, "cont") }

// Shutdown presses the power button, which a guest may well ignore.
func (v *vm) Shutdown(ctx context.Context) error { return v.command(ctx, "system_powerdown") }

// command holds one conversation with the monitor, which has one client at a
// time.
func (v *vm) command(ctx context.Context, name string) error {
	if err := v.alive(); err != nil {
		return err
	}
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return v.explain(ctx.Err())
	}
	m, err := dialMonitor(ctx, v.dir)
	if err != nil {
		return v.explain(err)
	}
	defer m.Close()
	if err := m.execute(name, nil, nil); err != nil {
		return v.explain(err)
	}
	return nil
}

func (v *vm) Kill(ctx context.Context) error {
	if v.ended() {
		return nil
	}
	if err := v.proc.Kill(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("kill VMM of %s: %w", v.id, err)
	}
	select {
	case <-v.done:
		return nil
	case <-v.closed:
		if v.ended() {
			return nil
		}
		return fmt.Errorf("kill VMM of %s: %w", v.id, os.ErrClosed)
	case <-ctx.Done():
		return errdefs.Wrap(ctx.Err(), errdefs.Timeout, "VMM_TIMEOUT", "the VMM does not end")
	}
}

func (v *vm) Console() (*os.File, error) { return v.rec.Snapshot() }

func (v *vm) Close() error {
	v.closing.Do(func() {
		close(v.closed)
		v.stop()
		v.conn.Close()
	})
	v.wg.Wait()
	v.proc.Close()
	if v.output != nil {
		v.output.Close()
	}
	return v.rec.Close()
}

// awaitEnd gives the VMM some time to end by itself.
func (v *vm) awaitEnd(patience time.Duration) {
	select {
	case <-v.done:
	case <-time.After(patience):
	}
}

func (v *vm) ended() bool {
	select {
	case <-v.done:
		return true
	default:
		return false
	}
}

// alive fails once the VMM has ended or the vm is closed.
func (v *vm) alive() error {
	if v.ended() {
		return errdefs.New(errdefs.Runtime, "VMM_DIED", "the VMM has ended")
	}
	select {
	case <-v.closed:
		return fmt.Errorf("VMM of %s: %w", v.id, os.ErrClosed)
	default:
		return nil
	}
}

// explain classifies what went wrong between a VMM and us.
func (v *vm) explain(err error) error {
	switch {
	case isHangup(err):
		return errdefs.Wrap(err, errdefs.Runtime, "VMM_DIED", "the VMM has ended")
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return errdefs.Wrap(err, errdefs.Timeout, "VMM_TIMEOUT", "the VMM does not answer")
	}
	return fmt.Errorf("VMM of %s: %w", v.id, err)
}

// isHangup reports whether the other end of a socket is gone.
func isHangup(err error) bool {
	for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, os.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}
