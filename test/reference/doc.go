// Package reference holds Hyperfleet against the reference implementation, by
// its own words: every curl line of its README and docs and the calls of its
// two example programs are made of a real daemon with real guests, on both
// prefixes; and each of its known defects has a test, named by its number, that
// shows that it is not here. The tests carry the tag vm.
package reference
