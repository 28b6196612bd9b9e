// Package e2e proves the whole product: the built binaries, a daemon of its own
// for each test, real guests under QEMU, and the public client.
package e2e
