package netconf

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// message is one rtnetlink request: a fixed part and attributes.
type message struct {
	kind  uint16
	flags uint16
	fixed []byte
	attrs []attr
}

type attr struct {
	kind  uint16
	value []byte
}

// encode lays the message out as netlink(7) has it: native byte order, each
// part padded to 4 bytes.
func (m message) encode() []byte {
	b := make([]byte, unix.SizeofNlMsghdr)
	b = append(b, m.fixed...)
	for _, a := range m.attrs {
		b = pad(b)
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(a.value)))
		b = binary.NativeEndian.AppendUint16(b, a.kind)
		b = append(b, a.value...)
	}
	b = pad(b)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], m.kind)
	binary.NativeEndian.PutUint16(b[6:], m.flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	return b
}

func pad(b []byte) []byte {
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

var errShort = errors.New("short netlink answer")

// acknowledged reads an NLMSG_ERROR message, whose errno is 0 for success.
func acknowledged(b []byte) error {
	if len(b) < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errShort
	}
	if errno := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); errno != 0 {
		return syscall.Errno(-errno)
	}
	return nil
}

func linkUp(index int) message {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = unix.AF_UNSPEC
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)  // flags
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP) // which of them to change
	return message{kind: unix.RTM_NEWLINK, fixed: b}
}

func family(a netip.Addr) byte {
	if a.Unmap().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func address(index int, p netip.Prefix) message {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = family(p.Addr()), byte(p.Bits())
	b[3] = unix.RT_SCOPE_UNIVERSE
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	ip := bytesOf(p.Addr())
	return message{
		kind: unix.RTM_NEWADDR, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, fixed: b,
		attrs: []attr{{unix.IFA_LOCAL, ip}, {unix.IFA_ADDRESS, ip}},
	}
}

func defaultRoute(index int, gateway netip.Addr) message {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = family(gateway)
	b[4] = unix.RT_TABLE_MAIN
	b[5] = unix.RTPROT_BOOT
	b[6] = unix.RT_SCOPE_UNIVERSE
	b[7] = unix.RTN_UNICAST
	oif := binary.NativeEndian.AppendUint32(nil, uint32(index))
	return message{
		kind: unix.RTM_NEWROUTE, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, fixed: b,
		attrs: []attr{{unix.RTA_GATEWAY, bytesOf(gateway)}, {unix.RTA_OIF, oif}},
	}
}
