// Package ext4 writes ext4 file systems into plain files, without root and
// without an external program.
//
// There are two products:
//
//   - a read-only base, made by a Writer: file contents are streamed straight
//     to their final blocks while they arrive, in any order and from several
//     goroutines; at the end the tree of names is given to Finish, which adds
//     directories, inodes and the rest. The inode table fits exactly; there is
//     no journal and no lost+found. Package image is the caller.
//   - an empty writable disk with a journal, made by Disks.Create for each
//     machine.
//
// What is not here: reading, changing or repairing a file system, and anything
// about layers or tar.
//
// Both are mounted by Linux >= 5.10 and are clean for e2fsck. All metadata
// carries CRC32C checksums. Block size is 4096, inode size 256, byte order
// little endian, everywhere.
//
// # Concurrency
//
// Writer.Store, StoreSparse and Discard are safe for concurrent use, with each
// other too. Finish must be the last call, and alone.
//
// # Sources
//
// Numbers and field offsets come from the kernel's documentation of the on-disk
// format (https://docs.kernel.org/filesystems/ext4/), and where that is silent
// from fs/ext4 and fs/jbd2 of Linux 6.1; the defaults of a new disk from
// mke2fs 1.47.
package ext4
