package auth

import (
	"context"
	"log/slog"
	"time"
)

// flushTimeout bounds one writing of uses.
const flushTimeout = 10 * time.Second

// note makes the use of a key pending. It needs mu.
func (k *Keyring) note(e *entry, now time.Time) {
	e.LastUsedAt = now.UTC()
	if e.pending {
		return
	}
	e.pending = true
	k.pending = append(k.pending, e)
	select {
	case k.used <- struct{}{}:
	default: // the writer knows already
	}
}

// write writes uses some time after the first of them, until ctx ends, and then
// what is left.
func (k *Keyring) write(ctx context.Context) {
	defer close(k.done)
	for {
		select {
		case <-k.used:
			pause(ctx, k.every)
		case <-ctx.Done():
		}
		k.err = k.flush(context.WithoutCancel(ctx))
		if ctx.Err() != nil {
			return
		}
		if k.err != nil {
			k.log.Warn("the last use of API keys is not written; it is tried again", slog.Any("err", k.err))
		}
	}
}

// flush writes the pending uses. When that fails they stay pending.
func (k *Keyring) flush(ctx context.Context) error {
	k.mu.Lock()
	pending := k.pending
	k.pending = nil
	used := make(map[KeyID]time.Time, len(pending))
	for _, e := range pending {
		e.pending = false
		used[e.ID] = e.LastUsedAt
	}
	k.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	err := k.store.TouchKeys(ctx, used)
	if err != nil {
		k.again(pending)
	}
	return err
}

// again makes uses pending that could not be written.
func (k *Keyring) again(entries []*entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range entries {
		k.note(e, e.LastUsedAt)
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
