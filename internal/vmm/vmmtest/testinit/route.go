package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// addRoute adds a default route: rtnetlink(7).
func addRoute(link int, gateway [4]byte) error {
	order := binary.NativeEndian
	var msg []byte
	msg = append(msg, unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	msg = order.AppendUint32(msg, 0) // flags
	msg = order.AppendUint16(msg, 8)
	msg = order.AppendUint16(msg, unix.RTA_GATEWAY)
	msg = append(msg, gateway[:]...)
	msg = order.AppendUint16(msg, 8)
	msg = order.AppendUint16(msg, unix.RTA_OIF)
	msg = order.AppendUint32(msg, uint32(link))

	header := order.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(msg)))
	header = order.AppendUint16(header, unix.RTM_NEWROUTE)
	header = order.AppendUint16(header, unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	header = order.AppendUint32(header, 1) // sequence
	header = order.AppendUint32(header, 0) // port

	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, append(header, msg...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("add route: %w", err)
	}
	answer := make([]byte, 512)
	n, _, err := unix.Recvfrom(s, answer, 0)
	if err != nil {
		return fmt.Errorf("add route: %w", err)
	}
	if n < 20 || order.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("add route: no answer")
	}
	if code := int32(order.Uint32(answer[16:])); code != 0 {
		return fmt.Errorf("add route: %w", unix.Errno(-code))
	}
	return nil
}
