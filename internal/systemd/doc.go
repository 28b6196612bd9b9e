// Package systemd is what a service manager wants of the daemon: to be told
// when it is ready, alive and ending (sd_notify(3)), and a level with each line
// of the log (sd-daemon(3)).
//
// It reads no environment: package config does, and package daemon passes the
// values on. Under no service manager everything here does nothing.
package systemd
