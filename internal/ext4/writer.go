package ext4

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Options are the choices for one base file system.
type Options struct {
	// UUID names the file system and seeds its checksums and directory
	// hashes. Give one that is derived from the content's identity: equal
	// input in equal order then makes equal images.
	UUID [16]byte

	// Label is the volume name, at most 16 bytes.
	Label string

	// MaxSize bounds the file, in bytes; what does not fit is
	// errdefs.Exhausted. Zero means 1 TiB; the most is 16 TiB.
	MaxSize int64

	// Created is the time in the superblock; zero means 1970.
	Created time.Time
}

// Stats describe a finished file system.
type Stats struct {
	Size       int64 // length of the file in bytes
	UsedBytes  int64 // blocks in use, in bytes: about what the file takes on disk
	Inodes     int   // files of all types, the root included
	Dirs       int   // directories among them
	MaxInodes  int   // size of the inode table
	FreeBlocks int64 // holes in the file: blocks that nothing needed in the end
}

const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // as many as one bitmap block has bits
	defaultMaxSize = 1 << 40
	limitMaxSize   = 16 << 40
)

// Writer writes one base file system. It is made by NewWriter and ends with
// Finish; a Writer that is given up needs no call, the caller removes the file.
type Writer struct {
	f    file
	opts Options
	seed uint32 // of all checksums: that of the UUID

	bufs sync.Pool // *[storeBufSize]byte

	mu    sync.Mutex
	alloc allocator
}

// NewWriter starts a file system in f, which must be empty and writable, and
// stays the caller's: the Writer neither syncs nor closes it.
func NewWriter(f *os.File, opts Options) (*Writer, error) {
	return newWriter(osFile{f}, opts)
}

func newWriter(f file, opts Options) (*Writer, error) {
	if opts.MaxSize == 0 {
		opts.MaxSize = defaultMaxSize
	}
	if opts.MaxSize < 0 || opts.MaxSize > limitMaxSize {
		return nil, errdefs.New(errdefs.Invalid, "IMAGE_SIZE_INVALID", "image size limit of %d bytes is not within 1 to %d", opts.MaxSize, int64(limitMaxSize))
	}
	if len(opts.Label) > labelLen {
		return nil, errdefs.New(errdefs.Invalid, "IMAGE_LABEL_INVALID", "label %q is longer than %d bytes", opts.Label, labelLen)
	}
	w := &Writer{f: f, opts: opts, seed: crc32c(^uint32(0), opts.UUID[:])}
	w.bufs.New = func() any { return new([storeBufSize]byte) }
	// The group descriptors come right after the superblock, so room for as
	// many as MaxSize can need is left. It costs nothing: it stays a hole.
	maxBlocks := uint64(opts.MaxSize) / blockSize
	w.alloc = allocator{tail: 1 + descBlocks(groupCount(maxBlocks)), limit: maxBlocks}
	if w.alloc.tail >= w.alloc.limit {
		return nil, w.tooLarge()
	}
	return w, nil
}

func (w *Writer) tooLarge() error {
	return errdefs.New(errdefs.Exhausted, "IMAGE_TOO_LARGE", "image needs more than the %d bytes that are allowed", w.opts.MaxSize)
}

// file is what a Writer and Disks need of the host's file.
type file interface {
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
	punch(off, length int64) error
}

// osFile is a file of the operating system.
type osFile struct{ *os.File }

// writeAt writes p at a block, and gives a full disk its kind.
func writeAt(f file, p []byte, block uint64) error {
	if _, err := f.WriteAt(p, int64(block)*blockSize); err != nil {
		return diskError(fmt.Errorf("write %d bytes at block %d: %w", len(p), block, err))
	}
	return nil
}
