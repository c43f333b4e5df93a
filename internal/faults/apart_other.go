//go:build unix && !linux

package main

import "syscall"

// apart does nothing: there are no PID namespaces.
func apart(*syscall.SysProcAttr) {}
