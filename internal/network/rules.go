package network

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// slots is how many machines, and so users of VMMs, a host has at most.
const slots = 65536

// forbidden are the destinations beside the host's own addresses, from the IANA
// special-purpose registries (RFC 6890): all that is not globally reachable, and
// what translates to such.
var forbidden = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), // with the metadata services of clouds
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"), // with the broadcast address

	netip.MustParsePrefix("::/96"), // with the loopback address
	netip.MustParsePrefix("::ffff:0:0/96"),
	netip.MustParsePrefix("64:ff9b::/96"), // NAT64 of any IPv4 address
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"), // 6to4 of any IPv4 address
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

const register = 1

// addRules makes the chains: output sends the packets of the VMMs' users to
// guests, which lets pass what is allowed and sends the rest to refuse.
func addRules(c *nftables.Conn, table *nftables.Table, u UserMode) {
	output := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	guests := c.AddChain(&nftables.Chain{Name: "guests", Table: table})
	refuse := c.AddChain(&nftables.Chain{Name: "refuse", Table: table})
	add := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var exprs []expr.Any
		for _, p := range parts {
			exprs = append(exprs, p...)
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	add(output, fromUsers(uint32(u.UIDBase), uint32(u.UIDBase+slots-1)), jump("guests"))

	add(guests, answersOfTCP(), accept())
	for _, r := range u.Resolvers {
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			add(guests, to(netip.PrefixFrom(r.Unmap(), r.Unmap().BitLen())), port(protocol, 53), accept())
		}
	}
	add(guests, toHost(), jump("refuse"))
	add(guests, throughLoopback(), jump("refuse"))
	for _, p := range forbidden {
		add(guests, to(p), jump("refuse"))
	}
	add(refuse, protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	add(refuse, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})
}

// fromUsers: meta skuid first-last.
func fromUsers(first, last uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: register},
		// The kernel compares ranges byte by byte.
		&expr.Byteorder{SourceRegister: register, DestRegister: register, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Range{
			Op: expr.CmpOpEq, Register: register,
			FromData: binary.BigEndian.AppendUint32(nil, first),
			ToData:   binary.BigEndian.AppendUint32(nil, last),
		},
	}
}

// answersOfTCP: tcp flags & (syn | ack) != syn. Only a SYN without ACK opens a
// connection, and only root can forge the rest.
func answersOfTCP() []expr.Any {
	const syn, ack = 0x02, 0x10 // RFC 9293 3.1
	return append(protocol(unix.IPPROTO_TCP),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte{syn}},
	)
}

// protocol: meta l4proto.
func protocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{number}},
	}
}

// port: udp or tcp dport.
func port(number byte, port uint16) []expr.Any {
	return append(protocol(number),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.BigEndian.AppendUint16(nil, port)},
	)
}

// to: ip daddr or ip6 daddr.
func to(p netip.Prefix) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16) // RFC 791 3.1
	if p.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, 24 // RFC 8200 3
	}
	address := p.Masked().Addr().AsSlice()
	size := uint32(len(address))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{family}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: mask(p), Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: address},
	}
}

// mask is the netmask of a prefix.
func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// toHost: fib daddr type local.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

// throughLoopback: meta oiftype loopback.
func throughLoopback() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFTYPE, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_LOOPBACK)},
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}
