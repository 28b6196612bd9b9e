package ext4

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

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
// whole blocks. The file is sparse: a few hundred KiB are allocated. It is on
// the disk when Create returns; its name is as durable as the caller makes the
// folder. Create leaves no file when it fails, and an existing file as it is:
// that is errdefs.Conflict.
func (d Disks) Create(ctx context.Context, path string, sizeBytes int64) error {
	if sizeBytes < MinDiskSize || sizeBytes > MaxDiskSize {
		return errdefs.New(errdefs.Invalid, "DISK_SIZE_INVALID", "disk size of %d bytes is not within %d to %d", sizeBytes, MinDiskSize, int64(MaxDiskSize))
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	var ids [32]byte
	rand.Read(ids[:])
	create := d.create
	if create == nil {
		create = createFile
	}
	f, err := create(path)
	if errors.Is(err, fs.ErrExist) {
		return errdefs.Wrap(err, errdefs.Conflict, "DISK_EXISTS", "disk exists already")
	}
	if err != nil {
		return diskError(fmt.Errorf("create disk: %w", err))
	}
	err = writeDisk(ctx, f, sizeBytes, ids)
	if cerr := f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close disk: %w", cerr)
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

func writeDisk(ctx context.Context, f file, size int64, ids [32]byte) error {
	return errdefs.New(errdefs.Unsupported, "NOT_YET", "not built yet")
}
