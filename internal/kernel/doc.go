// Package kernel provides what guests are booted with: a kernel and an
// initramfs.
//
// It turns a distribution's kernel into the form that VMMs load (a vmlinuz into
// an ELF vmlinux), picks the few modules that a guest needs with what they
// depend on, and writes the initramfs that holds them beside hyperfleet-init.
// Setup gets a kernel once, from a path or from the distribution's package;
// Store keeps it and implements machine.Kernels. VMMs, their command lines and
// what init does are not here.
//
// The daemon is the caller of Store, `hyperfleet setup` of Setup. Both are safe
// for concurrent use, also by several processes: files appear whole, by rename.
package kernel
