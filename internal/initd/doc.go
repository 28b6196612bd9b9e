// Package initd is PID 1 of each guest and the agent that the host talks to.
//
// # What happens
//
// Main finds out whether it runs in the initramfs (then /hyperfleet/modules
// exists) or on a root file system that the kernel mounted itself. In the
// initramfs it mounts proc, sys and dev, loads the modules, opens the agent's
// channel, and waits for the host's boot message; that one tells how to join the
// disks, and is answered once the guest is set up. On a direct boot the root is
// used as it is, and the agent is served in the background: without a host
// init still does its work.
//
// PID 1 never ends: what fails is written to the console, one JSON object per
// line, and told to the host where there is one.
//
// # Where things are
//
// tables.go has all mounts, links and switches as data, boot.go the order in which
// a guest is set up, shutdown.go the order in which it ends, agent.go the
// session with the host. What they use has packages of its own: mount, volume,
// filetree and netconf for the set-up; process (the one reaper), command, account and
// file for requests.
//
// The package trusts no image: paths are resolved inside the image's root. It
// knows nothing of the host but what guestproto says.
package initd
