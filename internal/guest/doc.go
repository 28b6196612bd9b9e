// Package guest is the host's end of the agent session with a machine's guest:
// it implements machine.Guests on package guestproto.
//
// A Session dials, shakes hands, sends the boot configuration and the time, and
// does so again after every break, until Close. Commands that run when the
// connection breaks are attached to again without a byte lost or doubled.
//
// It does not know how a guest is reached (the caller gives a dial function),
// nor what a machine is beyond its id. Nothing that a guest says is trusted.
// Everything exported is safe for concurrent use.
package guest
