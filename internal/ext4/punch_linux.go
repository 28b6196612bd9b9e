package ext4

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// punch gives a range back to the host's file system, where that can.
func (f osFile) punch(off, length int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the range stays allocated; nothing reads it
	}
	if err != nil {
		return fmt.Errorf("punch %d bytes at %d: %w", length, off, err)
	}
	return nil
}

// diskError gives errors of a full host disk their kind.
func diskError(err error) error {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT, unix.EFBIG} {
		if errors.Is(err, full) {
			return errdefs.Wrap(err, errdefs.Exhausted, "DISK_FULL", "no disk space left for the file system")
		}
	}
	return err
}
