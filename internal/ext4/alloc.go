package ext4

import "math/bits"

// span is a run of blocks of the image.
type span struct {
	start uint64
	count uint64
}

// allocator hands out runs of blocks: from given-back ones where a run is
// surely long enough, else from the end of the file. It is not safe for
// concurrent use.
//
// Free runs lie in bins by the power of two of their length and are not joined:
// finding one is a few steps however many there are. What stays unused in the
// end becomes a hole in the file.
type allocator struct {
	tail  uint64 // first block never handed out
	limit uint64 // blocks of the largest allowed file
	bins  [33][]span
}

// take returns a run of exactly count blocks (count > 0), or false when the
// image would grow beyond its limit.
func (a *allocator) take(count uint64) (span, bool) {
	// All runs of bin b are at least 1<<b long.
	for b := bits.Len64(count - 1); b < len(a.bins); b++ {
		bin := a.bins[b]
		if len(bin) == 0 {
			continue
		}
		s := bin[len(bin)-1]
		a.bins[b] = bin[:len(bin)-1]
		a.give(span{s.start + count, s.count - count})
		return span{s.start, count}, true
	}
	if count > a.limit-a.tail {
		return span{}, false
	}
	s := span{a.tail, count}
	a.tail += count
	return s, true
}

// give takes a run back.
func (a *allocator) give(s span) {
	switch {
	case s.count == 0:
	case s.start+s.count == a.tail:
		a.tail = s.start
	default:
		b := min(bits.Len64(s.count)-1, len(a.bins)-1)
		a.bins[b] = append(a.bins[b], s)
	}
}
