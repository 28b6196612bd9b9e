package initd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/process"
)

// errNotInit is returned to someone who starts the program by hand.
var errNotInit = errors.New("hyperfleet-init is the init of a guest: it must be process 1")

// Main is the whole life of a guest. It returns an error only when it is not
// process 1, and else not at all. version is told to the host.
func Main(version string) error {
	if os.Getpid() != 1 {
		return errNotInit
	}
	s := &system{log: newLog(os.Stderr), modules: &modules{}, first: -1}
	defer func() {
		// A panic of process 1 would be one of the kernel.
		if v := recover(); v != nil {
			s.log.Printf("init: panic: %v", v)
			s.restart()
		}
	}()
	_, err := os.Stat(modulesList)
	s.initramfs = err == nil
	prepare(s.log)
	s.reaper = process.NewReaper(s.orphan)
	ctx := context.Background()
	go s.reap(ctx)
	if err := s.early(); err != nil {
		s.log.Printf("early set-up: %v", err)
	}
	if err := relaxMonitor("/proc"); err != nil {
		s.log.Printf("%v", err)
	}
	agent := s.agent(version)
	survive()
	go s.serve(ctx, agent)
	s.awaitSignal(agent)
	return nil
}

// orphan is told of each adopted process that has ended: it may have been the
// last one of a command's group.
func (s *system) orphan() {
	if groups := s.groups.Load(); groups != nil {
		groups.Sweep()
	}
}

func (s *system) reap(ctx context.Context) {
	for {
		if err := s.reaper.Run(ctx); err != nil {
			s.log.Printf("reaper: %v", err)
			time.Sleep(time.Second)
		}
	}
}

func (s *system) agent(version string) *Agent {
	return NewAgent(AgentConfig{
		Version: version, Log: s.log,
		Setup: s.setup, SetClock: setClock, Shutdown: s.shutdown, Reboot: s.restart,
	})
}

// serve looks for the host for ever. A direct boot without one is complete, too.
func (s *system) serve(ctx context.Context, agent *Agent) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		s.log.Printf("%v", err)
	}
	ep, err := parseEndpoint(string(cmdline))
	switch {
	case err != nil:
		s.log.Printf("kernel command line: %v", err)
		return
	case ep == endpoint{}:
		s.log.Printf("no host: the kernel command line has no %s", agentKey)
		return
	case ep.vsock != 0:
		s.loadAll() // vsock's transport is among them
	}
	err = agent.Serve(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) { return ep.dial(ctx) })
	s.log.Printf("agent ended: %v", err)
}

// awaitSignal ends the guest when it is told to by a signal: SIGINT is the
// kernel's Ctrl-Alt-Del, SIGTERM a program's, SIGPWR a power button's.
func (s *system) awaitSignal(agent *Agent) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGPWR)
	<-signals
	agent.Stop(signalGrace)
	s.restart()
}

// survivable are the signals at which Go's runtime ends a program that does not
// ask for them, and with process 1 the machine: "kill -HUP 1" is an old way to
// have init read its files again.
var survivable = []os.Signal{
	unix.SIGHUP, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE,
	unix.SIGSEGV, unix.SIGSTKFLT, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGSYS,
}

// survive has the signals dropped that only a process can have sent: a fault of
// our own is a panic all the same. They are caught, not ignored, as commands
// would inherit that.
func survive() (stop func()) {
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, survivable...)
	return func() { signal.Stop(dropped) }
}

// Limits of open files for init and all it starts. A command inherits both: 64 Ki
// are enough for init's own pipes and harmless to programs that close every
// number up to their limit; who needs more may raise it.
const (
	softFiles = 64 << 10
	hardFiles = 512 << 10
)

// prepare sets what every process inherits, and what only init can. The kernel
// never picks process 1 when memory runs out (mm/oom_kill.c:
// oom_unkillable_task), so that nothing has to be protected, and undone for
// children, here.
func prepare(log *log.Logger) {
	unix.Umask(0o022)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: softFiles, Max: hardFiles}); err != nil {
		log.Printf("limit of open files: %v", err)
	}
	// Ctrl-Alt-Del must reach us as SIGINT, not reset the machine at once.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		log.Printf("disable Ctrl-Alt-Del: %v", err)
	}
}

// clockTolerance is how far off the clock may be: setting it makes a jump that
// programs see.
const clockTolerance = 50 * time.Millisecond

func setClock(now time.Time) error {
	if time.Until(now).Abs() <= clockTolerance {
		return nil
	}
	tv := unix.NsecToTimeval(now.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}
