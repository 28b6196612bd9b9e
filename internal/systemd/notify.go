package systemd

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

// sendTimeout bounds one message: a service manager that does not read must
// not hold the daemon.
const sendTimeout = 5 * time.Second

// Notifier tells the service manager how the daemon is doing. The zero value
// tells nobody. It is safe for concurrent use and holds nothing open.
type Notifier struct {
	// Socket is $NOTIFY_SOCKET: a path, or @ and an abstract name.
	Socket string
}

// Ready says that the daemon has taken its machines over and listens.
func (n Notifier) Ready(ctx context.Context, status string) error {
	return n.send(ctx, "READY=1", "STATUS="+status)
}

// Stopping says that the daemon has begun to end.
func (n Notifier) Stopping(ctx context.Context) error { return n.send(ctx, "STOPPING=1") }

// Alive resets the watchdog of the service manager.
func (n Notifier) Alive(ctx context.Context) error { return n.send(ctx, "WATCHDOG=1") }

// send writes one datagram of assignments. A value of several lines would be
// taken for more assignments: it is cut.
func (n Notifier) send(ctx context.Context, assignments ...string) error {
	if n.Socket == "" {
		return nil
	}
	for i, a := range assignments {
		assignments[i], _, _ = strings.Cut(a, "\n")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unixgram", n.Socket)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	if _, err := conn.Write([]byte(strings.Join(assignments, "\n"))); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// Watch calls alive twice in each interval, and resets the watchdog as often as
// that succeeds, until ctx ends. A daemon that hangs in alive is restarted by
// the service manager; report gets what failed. An interval of 0 is no watchdog.
func (n Notifier) Watch(ctx context.Context, interval time.Duration, alive func(context.Context) error, report func(error)) {
	if n.Socket == "" || interval <= 0 {
		return
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		checked, cancel := context.WithTimeout(ctx, interval/2)
		err := alive(checked)
		cancel()
		if err == nil {
			err = n.Alive(ctx)
		}
		if err != nil && ctx.Err() == nil {
			report(err)
		}
	}
}
