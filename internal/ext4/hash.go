package ext4

import "math/bits"

// hashEOF is the hash that ends a directory, and so belongs to no name.
const hashEOF = 0x7FFFFFFF << 1

// nameHash is the half MD4 hash of a name, over unsigned bytes, as fs/ext4/hash.c
// defines it. The lowest bit of the result is 0: the tree has a use for it.
func nameHash(name string, seed [4]uint32) uint32 {
	state := [4]uint32{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476}
	if seed != [4]uint32{} {
		state = seed
	}
	for {
		var in [8]uint32
		hashInput(&in, name)
		halfMD4(&state, &in)
		if len(name) <= 32 {
			break
		}
		name = name[32:]
	}
	h := state[1] &^ 1
	if h == hashEOF {
		h = hashEOF - 2
	}
	return h
}

// hashInput packs up to 32 bytes of name, padded with its length.
func hashInput(in *[8]uint32, name string) {
	pad := uint32(len(name)) & 0xFF
	pad |= pad << 8
	pad |= pad << 16
	name = name[:min(len(name), 32)]
	for i := range in {
		in[i] = pad
		for _, c := range []byte(name[:min(len(name), 4)]) {
			in[i] = in[i]<<8 + uint32(c)
		}
		name = name[min(len(name), 4):]
	}
}

// halfMD4 is MD4 with 8 instead of 16 steps in each of its three rounds.
func halfMD4(state *[4]uint32, in *[8]uint32) {
	rounds := [3]struct {
		mix    func(x, y, z uint32) uint32
		add    uint32
		order  [8]int
		shifts [4]int
	}{
		{func(x, y, z uint32) uint32 { return z ^ x&(y^z) }, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19}},
		{func(x, y, z uint32) uint32 { return x&y + (x^y)&z }, 0x5A827999, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13}},
		{func(x, y, z uint32) uint32 { return x ^ y ^ z }, 0x6ED9EBA1, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15}},
	}
	a, b, c, d := state[0], state[1], state[2], state[3]
	for _, r := range rounds {
		for i, k := range r.order {
			t := bits.RotateLeft32(a+r.mix(b, c, d)+in[k]+r.add, r.shifts[i%4])
			a, b, c, d = d, t, b, c
		}
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}
