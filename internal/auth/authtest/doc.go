// Package authtest has an in-memory auth.Store, and the conformance suite that
// it shares with the real one. Everything here is safe for concurrent use.
package authtest
