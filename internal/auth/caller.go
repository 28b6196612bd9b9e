package auth

import (
	"context"
	"log/slog"
	"time"
)

// Caller is who sends a request. The zero value may do nothing.
type Caller struct {
	KeyID  KeyID  // "" for a local caller
	Name   string // of the key, for people; not unique
	Scopes Scopes
	// ExpiresAt is when the key does, zero for never.
	ExpiresAt time.Time
	// Local callers need no key: they reached the unix socket, or the operator
	// has switched authentication off. They hold every scope.
	Local bool
}

// LocalCaller is the caller who needs no key.
func LocalCaller() Caller { return Caller{Name: "local", Scopes: Scopes{All}, Local: true} }

// Allows reports whether the caller may do what the scope is needed for.
func (c Caller) Allows(want Scope) bool { return c.Scopes.Allows(want) }

// LogValue is the key's id, or "local".
func (c Caller) LogValue() slog.Value {
	switch {
	case c.Local:
		return slog.StringValue("local")
	case c.KeyID == "":
		return slog.StringValue("nobody")
	}
	return slog.StringValue(string(c.KeyID))
}

type callerKey struct{}

// WithCaller returns a context of a request by c.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns who sent the request of ctx; false for a context that is
// of no request, or of one to what is open to everybody.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}
