package ext4

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
)

// reader reads an image back as strictly as it can: every checksum must be
// right, every block have one owner, and every name be found by its hash.
type reader struct {
	image  []byte
	seed   uint32
	uuid   []byte
	blocks uint64
	groups uint64
	perGrp uint32
	descs  []byte
	owned  bitmap
	paths  map[uint32]string // least path of an inode
}

type readInode struct {
	raw    []byte
	ino    uint32
	blocks []uint64 // by logical number; 0 for a hole
	size   int64
}

func check(ok bool, format string, args ...any) {
	if !ok {
		panic(fmt.Errorf(format, args...))
	}
}

// listImage returns all that an image has.
func listImage(t testing.TB, path string) (out map[string]entry) {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil {
			err, ok := p.(error)
			if !ok {
				panic(p)
			}
			t.Fatalf("image: %v", err)
		}
	}()
	r := &reader{image: image, paths: make(map[uint32]string)}
	r.open()
	out = make(map[string]entry)
	r.walk("", rootInode, rootInode, out)
	for path, e := range out {
		var ino uint32
		fmt.Sscan(e.Same, &ino)
		e.Same = r.paths[ino]
		out[path] = e
	}
	r.checkBitmaps()
	return out
}

func (r *reader) block(at uint64) []byte {
	check(at < r.blocks, "block %d is beyond the end", at)
	return r.bytes(int64(at)*blockSize, blockSize)
}

func (r *reader) bytes(off int64, n int) []byte {
	check(off+int64(n) <= int64(len(r.image)), "%d bytes at %d are beyond the end", n, off)
	return r.image[off:][:n:n]
}

func (r *reader) open() {
	sb := r.bytes(superblockOffset, superblockSize)
	check(le.Uint16(sb[0x38:]) == 0xEF53, "bad magic")
	check(crc32c(^uint32(0), sb[:0x3FC]) == le.Uint32(sb[0x3FC:]), "superblock checksum")
	r.uuid = sb[0x68:0x78]
	r.seed = crc32c(^uint32(0), r.uuid)
	r.blocks = uint64(le.Uint32(sb[4:])) | uint64(le.Uint32(sb[0x150:]))<<32
	r.groups = groupCount(r.blocks)
	r.perGrp = le.Uint32(sb[0x28:])
	check(le.Uint32(sb[0:]) == uint32(r.groups)*r.perGrp, "inode count")
	r.owned = make(bitmap, r.groups*blockSize)
	r.own(0, 1+descBlocks(r.groups))
	r.descs = r.bytes(blockSize, int(r.groups)*descSize)
	for g := range r.groups {
		d := r.descs[g*descSize:][:descSize]
		sum := le.Uint16(d[0x1E:])
		zeroed := bytes.Clone(d)
		zeroed[0x1E], zeroed[0x1F] = 0, 0
		check(uint16(crc32c(crc32cUint32(r.seed, uint32(g)), zeroed)) == sum, "checksum of group %d", g)
		r.own(uint64(le.Uint32(d[0:])), 1)
		r.own(uint64(le.Uint32(d[4:])), 1)
		r.own(uint64(le.Uint32(d[8:])), uint64(r.perGrp)*inodeSize/blockSize)
	}
}

// own claims blocks for one owner.
func (r *reader) own(at, n uint64) {
	check(at+n <= r.blocks, "blocks %d+%d are beyond the end", at, n)
	check(r.owned.set(at, n), "blocks %d+%d have two owners", at, n)
}

// checkBitmaps compares what was seen with the bitmaps.
func (r *reader) checkBitmaps() {
	r.owned.set(r.blocks, r.groups*blocksPerGroup-r.blocks)
	for g := range r.groups {
		d := r.descs[g*descSize:][:descSize]
		blocks := r.block(uint64(le.Uint32(d[0:])))
		check(bytes.Equal(blocks, r.owned[g*blockSize:][:blockSize]), "block bitmap of group %d", g)
		check(crc32c(r.seed, blocks) == uint32(le.Uint16(d[0x18:]))|uint32(le.Uint16(d[0x38:]))<<16, "checksum of block bitmap %d", g)
		check(bitmap(blocks).zeros() == uint32(le.Uint16(d[0x0C:])), "free blocks of group %d", g)
		inodes := r.block(uint64(le.Uint32(d[4:])))
		check(crc32c(r.seed, inodes[:r.perGrp/8]) == uint32(le.Uint16(d[0x1A:]))|uint32(le.Uint16(d[0x3A:]))<<16, "checksum of inode bitmap %d", g)
		for i := range uint32(blocksPerGroup) {
			ino := uint32(g)*r.perGrp + i + 1
			used := ino < firstInode || r.seen(ino) || i >= r.perGrp
			check(inodes[i/8]>>(i%8)&1 == 1 == used, "inode bitmap at %d", ino)
		}
	}
}

func (r *reader) inode(ino uint32) readInode {
	g, i := (ino-1)/r.perGrp, (ino-1)%r.perGrp
	check(uint64(g) < r.groups, "inode %d is beyond the end", ino)
	raw := r.bytes(int64(le.Uint32(r.descs[g*descSize+8:]))*blockSize+int64(i)*inodeSize, inodeSize)
	zeroed := bytes.Clone(raw)
	clear(zeroed[0x7C:0x7E])
	clear(zeroed[0x82:0x84])
	sum := uint32(le.Uint16(raw[0x7C:])) | uint32(le.Uint16(raw[0x82:]))<<16
	check(crc32c(inodeSeed(r.seed, ino), zeroed) == sum, "checksum of inode %d", ino)
	n := readInode{raw: raw, ino: ino, size: int64(le.Uint32(raw[4:])) | int64(le.Uint32(raw[0x6C:]))<<32}
	if le.Uint32(raw[0x20:])&inodeExtents != 0 {
		n.blocks = make([]uint64, (n.size+blockSize-1)/blockSize)
		r.extents(&n, raw[0x28:0x64])
	}
	return n
}

func (r *reader) extents(n *readInode, node []byte) {
	check(le.Uint16(node) == extentMagic, "extent magic of inode %d", n.ino)
	for i := range int(le.Uint16(node[2:])) {
		e := node[12*(i+1):]
		logical, start, count := uint64(le.Uint32(e)), uint64(le.Uint32(e[8:])), uint64(le.Uint16(e[4:]))
		if le.Uint16(node[6:]) > 0 {
			at := uint64(le.Uint32(e[4:]))
			b := r.block(at)
			check(crc32c(inodeSeed(r.seed, n.ino), b[:extentTailOffset]) == le.Uint32(b[extentTailOffset:]), "checksum of extents at %d", at)
			check(le.Uint32(b[12:]) == uint32(logical), "extents at %d begin elsewhere", at)
			r.claimOnce(n, at, 1)
			r.extents(n, b)
			continue
		}
		check(count > 0 && count <= maxExtentBlocks, "extent length %d", count)
		r.claimOnce(n, start, count)
		for k := range count {
			check(n.blocks[logical+k] == 0, "logical block %d twice", logical+k)
			n.blocks[logical+k] = start + k
		}
	}
}

// claimOnce claims blocks the first time that an inode is read.
func (r *reader) claimOnce(n *readInode, at, count uint64) {
	if _, seen := r.paths[n.ino]; !seen {
		r.own(at, count)
	}
}

// content returns the bytes of a file in whole blocks.
func (r *reader) content(n *readInode) []byte {
	out := make([]byte, 0, len(n.blocks)*blockSize)
	for _, at := range n.blocks {
		if at == 0 {
			out = append(out, zeroBlock[:]...)
		} else {
			out = append(out, r.block(at)...)
		}
	}
	return out
}

func (r *reader) walk(path string, ino, parent uint32, out map[string]entry) {
	n := r.inode(ino)
	first, seen := r.paths[ino]
	mode := uint32(le.Uint16(n.raw))
	e := entry{
		Mode:  mode,
		UID:   uint32(le.Uint16(n.raw[2:])) | uint32(le.Uint16(n.raw[0x78:]))<<16,
		GID:   uint32(le.Uint16(n.raw[0x18:])) | uint32(le.Uint16(n.raw[0x7A:]))<<16,
		Links: uint32(le.Uint16(n.raw[0x1A:])),
		Same:  fmt.Sprint(ino),
	}
	extra := le.Uint32(n.raw[0x88:])
	e.ModTime = fmt.Sprintf("%d.%09d", int64(int32(le.Uint32(n.raw[0x10:])))+int64(extra&3)<<32, extra>>2)
	e.Xattrs = r.xattrs(&n)
	switch mode & TypeMask {
	case TypeRegular:
		e.Size = n.size
		e.Sum = fmt.Sprintf("%x", sha256.Sum256(r.content(&n)[:n.size]))
	case TypeSymlink:
		e.Size = n.size
		if n.size < 60 {
			e.Target = string(n.raw[0x28:][:n.size])
		} else {
			e.Target = string(r.content(&n)[:n.size])
		}
	case TypeBlock, TypeChar:
		e.Major, e.Minor = uint32(n.raw[0x29]), uint32(n.raw[0x28])
		if dev := le.Uint32(n.raw[0x2C:]); dev != 0 {
			e.Major, e.Minor = dev>>8&0xFFF, dev&0xFF|dev>>12&0xFFF00
		}
	}
	if !seen || path < first {
		r.paths[ino] = path
	}
	out[path] = e
	if mode&TypeMask == TypeDir {
		for name, child := range r.dir(&n, parent) {
			r.walk(path+"/"+name, child.ino, ino, out)
			got := uint32(le.Uint16(r.inode(child.ino).raw))
			check(child.kind == direntKind(got), "type of %q", name)
		}
	}
}

// dir returns the entries of a directory but for the two dots.
func (r *reader) dir(n *readInode, parent uint32) map[string]dirent {
	b := r.content(n)
	out := make(map[string]dirent)
	indexed := le.Uint32(n.raw[0x20:])&inodeIndexed != 0
	if !indexed {
		list := r.leaf(n, b)
		check(len(b) == blockSize, "directory %d of %d bytes has no index", n.ino, len(b))
		check(list[0].name == "." && list[0].ino == n.ino, "dot of %d", n.ino)
		check(list[1].name == ".." && list[1].ino == parent, "dots of %d", n.ino)
		for _, e := range list[2:] {
			out[e.name] = e
		}
		return out
	}
	check(le.Uint32(b) == n.ino && le.Uint32(b[12:]) == parent, "dots of %d", n.ino)
	r.index(n, b, b[:blockSize], dxRootHeader, int(b[30]), 0, 1<<32, out)
	return out
}

// index visits a block of the tree whose names hash to from at least and below to.
func (r *reader) index(n *readInode, dir, b []byte, header, levels int, from, to uint64, out map[string]dirent) {
	limit, count := int(le.Uint16(b[header:])), int(le.Uint16(b[header+2:]))
	check(header+limit*8+8 == blockSize && count > 0 && count <= limit, "index of %d", n.ino)
	sum := crc32c(crc32c(inodeSeed(r.seed, n.ino), b[:header+count*8]), make([]byte, 8))
	check(sum == le.Uint32(b[blockSize-4:]), "index checksum of %d", n.ino)
	for i := range count {
		low, high := from, to
		if i > 0 {
			low = uint64(le.Uint32(b[header+i*8:]))
		}
		if i+1 < count {
			high = uint64(le.Uint32(b[header+(i+1)*8:]))
		}
		block := dir[le.Uint32(b[header+i*8+4:])*blockSize:][:blockSize]
		if levels > 0 {
			r.index(n, dir, block, dxNodeHeader, levels-1, low, high, out)
			continue
		}
		for _, e := range r.leaf(n, block) {
			var seed [4]uint32
			for k := range seed {
				seed[k] = le.Uint32(r.uuid[4*k:])
			}
			h := uint64(nameHash(e.name, seed))
			// An odd bound says that names of this hash are on both sides.
			check(h >= low&^1 && h < high+high&1, "%q in the wrong leaf of %d", e.name, n.ino)
			out[e.name] = e
		}
	}
}

func (r *reader) leaf(n *readInode, b []byte) (list []dirent) {
	check(crc32c(inodeSeed(r.seed, n.ino), b[:dirSpace]) == le.Uint32(b[blockSize-4:]), "leaf checksum of %d", n.ino)
	for at := 0; at < dirSpace; {
		size, length := int(le.Uint16(b[at+4:])), int(b[at+6])
		check(size >= direntSize(length) && size%4 == 0 && at+size <= dirSpace, "entry at %d of %d", at, n.ino)
		list = append(list, dirent{ino: le.Uint32(b[at:]), kind: b[at+7], name: string(b[at+8:][:length])})
		at += size
	}
	return list
}

func (r *reader) xattrs(n *readInode) map[string]string {
	out := make(map[string]string)
	if body := n.raw[inodeBodyXattrs:]; le.Uint32(body) == xattrMagic {
		readXattrs(body[4:], 0, out)
	}
	at := uint64(le.Uint32(n.raw[0x68:]))
	if at == 0 {
		return out
	}
	r.claimOnce(n, at, 1)
	b := r.block(at)
	sum, zeroed := le.Uint32(b[0x10:]), bytes.Clone(b)
	clear(zeroed[0x10:0x14])
	check(crc32c(crc32cUint64(r.seed, at), zeroed) == sum, "checksum of attributes at %d", at)
	readXattrs(b, xattrBlockHeader, out)
	return out
}

func readXattrs(b []byte, at int, out map[string]string) {
	for le.Uint32(b[at:]) != 0 {
		name := string(b[at+16:][:b[at]])
		off, size := int(le.Uint16(b[at+2:])), int(le.Uint32(b[at+8:]))
		value := string(b[off:][:size])
		for _, p := range xattrPrefixes {
			if p.index == b[at+1] {
				name = p.prefix + name
			}
		}
		if strings.HasPrefix(name, "system.") {
			value = readACL(value)
		}
		_, twice := out[name]
		check(!twice, "attribute %q twice", name)
		out[name] = value
		at += xattrEntryHeader + (int(b[at])+3)&^3
	}
}

// readACL is the inverse of diskACL.
func readACL(disk string) string {
	out, b := le.AppendUint32(nil, aclVersionXattr), []byte(disk[4:])
	for len(b) > 0 {
		out = append(out, b[:4]...)
		if tag := le.Uint16(b); tag == aclUser || tag == aclGroup {
			out = append(out, b[4:8]...)
			b = b[8:]
		} else {
			out = le.AppendUint32(out, 1<<32-1)
			b = b[4:]
		}
	}
	return string(out)
}

func (r *reader) seen(ino uint32) bool {
	_, ok := r.paths[ino]
	return ok
}
