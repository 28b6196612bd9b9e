// Package packaging proves the Debian package: it is installed, upgraded,
// removed and purged in a clean Debian whose own systemd runs in namespaces.
package packaging
