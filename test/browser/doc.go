// Package browser drives a headless Chromium for tests, over a pipe and by the
// DevTools protocol. A Browser lives in a network namespace that has nothing
// but a loopback, together with the listener that it is given: what it shows
// came from there. Only tests import it.
package browser
