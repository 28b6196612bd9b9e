// Package agent tests the two ends of the agent session together: initd's agent
// and guest's session, joined over a socket in one process. The agent runs real
// commands and touches real files, as whoever runs the tests; what needs a
// guest of its own (mounts, shutdown) is not here.
package agent
