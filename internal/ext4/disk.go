package ext4

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Limits of Disks.Create in bytes. Below the lower one there is no room for a
// journal.
const (
	MinDiskSize = 8 << 20
	MaxDiskSize = 16 << 40
)

// Disks makes machines' writable disks: it implements machine.Disks. The zero
// value is ready, and safe for concurrent use.
type Disks struct {
	create func(path string) (file, error) // nil means createFile
}

// Create makes an empty ext4 file system with a journal, owned by root, in the
// new file path, which has mode 0600 and a length of sizeBytes rounded down to
// whole blocks. The file is sparse: about 100 KiB are allocated, and 64 bytes
// for each 128 MiB of size. The content is on the disk when Create returns; the
// name is as durable as the caller makes the folder. Create leaves no file when
// it fails, and leaves an existing file as it is: that is errdefs.Conflict.
func (d Disks) Create(ctx context.Context, path string, sizeBytes int64) error {
	if sizeBytes < MinDiskSize || sizeBytes > MaxDiskSize {
		return errdefs.New(errdefs.Invalid, "DISK_SIZE_INVALID", "disk size of %d bytes is not within %d to %d", sizeBytes, MinDiskSize, int64(MaxDiskSize))
	}
	create := d.create
	if create == nil {
		create = createFile
	}
	f, err := create(path)
	if errors.Is(err, fs.ErrExist) {
		return errdefs.Wrap(err, errdefs.Conflict, "DISK_EXISTS", "the disk exists already")
	}
	if err != nil {
		return diskError(fmt.Errorf("create disk: %w", err))
	}
	err = newDisk(sizeBytes).write(ctx, f)
	if cerr := f.Close(); err == nil && cerr != nil {
		err = diskError(fmt.Errorf("close disk: %w", cerr))
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func createFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

const (
	bytesPerInode  = 16 << 10 // as mke2fs has it
	lostFoundInode = firstInode
	lostFoundSize  = 4  // blocks: room for names when there is none left elsewhere
	minLastGroup   = 50 // blocks that a last group must have beyond its metadata, as for mke2fs
)

// disk is one call of Disks.Create. Each group holds its own bitmaps and inode
// table: so the kernel knows without any bitmap on disk which blocks of an
// untouched group are in use, and only descriptors need be written for it.
// Group 0 has the superblock, the descriptors and the directories; the journal
// lies in the first free blocks. Group 1 has a copy of superblock and
// descriptors, for repairs.
type disk struct {
	geometry
	size    int64 // of the file, in bytes
	uuid    [16]byte
	seed    uint32
	created time.Time

	dirs    uint64   // first block of the root directory; lost+found follows
	tree    uint64   // block with the journal's extents, if they need one
	journal []extent // where the journal lies
}

// newDisk lays out a file system of the size.
func newDisk(size int64) *disk {
	d := &disk{size: size &^ (blockSize - 1), created: time.Now()}
	rand.Read(d.uuid[:])
	d.uuid[6] = d.uuid[6]&0x0F | 0x40 // RFC 9562: version 4
	d.uuid[8] = d.uuid[8]&0x3F | 0x80 // and variant
	d.seed = crc32c(^uint32(0), d.uuid[:])
	d.blocks = uint64(d.size) / blockSize
	d.groups = groupCount(d.blocks)
	const perBlock = blockSize / inodeSize
	d.inodesPerGroup = uint32(ceilDiv(ceilDiv(uint64(d.size)/bytesPerInode, d.groups), perBlock) * perBlock)
	if last := d.groups - 1; last > 0 && d.groupBlocks(last) < d.overhead(last)+minLastGroup {
		d.groups--
		d.blocks = d.groups * blocksPerGroup
	}
	d.placeFiles()
	return d
}

// backupGroup is the group with copies of superblock and descriptors.
func (d *disk) backupGroup() uint64 { return min(d.groups-1, 1) }

// copies returns how many blocks superblock and descriptors take in a group.
func (d *disk) copies(group uint64) uint64 {
	if group == 0 || group == d.backupGroup() {
		return 1 + descBlocks(d.groups)
	}
	return 0
}

// overhead returns how many blocks at the start of a group its metadata takes.
func (d *disk) overhead(group uint64) uint64 { return d.copies(group) + 2 + d.tableBlocks() }

func (d *disk) groupBlocks(group uint64) uint64 {
	return min(blocksPerGroup, d.blocks-group*blocksPerGroup)
}

// placeFiles finds blocks for the directories and the journal.
func (d *disk) placeFiles() {
	d.dirs = d.overhead(0)
	d.tree = d.dirs + 1 + lostFoundSize
	at, total := d.tree+1, journalBlocks(d.blocks)
	for group, logical := uint64(0), uint64(0); logical < total; group++ {
		if group > 0 {
			at = group*blocksPerGroup + d.overhead(group)
		}
		n := min(total-logical, (group+1)*blocksPerGroup-at)
		d.journal = append(d.journal, extent{uint32(logical), uint32(at), uint32(n)})
		logical += n
	}
}
