package ext4

import "github.com/hyperfleet/hyperfleet/internal/errdefs"

const labelLen = 16

func descBlocks(groups uint64) uint64 { return (groups + 63) / 64 }
func groupCount(blocks uint64) uint64 { return (blocks + blocksPerGroup - 1) / blocksPerGroup }

// Finish adds the tree of names under root, which must be a directory, and
// completes the file system. Data that no Node refers to becomes a hole. What
// the format cannot hold is an error that names the file: errdefs.Invalid for
// what is wrong as such, errdefs.Exhausted beyond a limit. The Writer and the
// tree must not be used afterwards. The caller syncs the file before it relies
// on it.
func (w *Writer) Finish(root *Node) (Stats, error) {
	return Stats{}, errdefs.New(errdefs.Unsupported, "NOT_YET", "not built yet")
}
