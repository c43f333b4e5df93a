package main

import (
	"os"
	"syscall"
)

// apart gives a process a PID namespace of its own, as a container has: nobody can see from outside
// that it is gone. Only root may.
func apart(attr *syscall.SysProcAttr) {
	if os.Getuid() == 0 {
		attr.Cloneflags |= syscall.CLONE_NEWPID
	}
}
