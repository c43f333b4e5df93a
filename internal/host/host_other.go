//go:build !linux

package host

import "os"

// Self returns this process, of which others cannot tell here whether it is gone.
func Self() Process { return Process{PID: os.Getpid()} }

func gone(Process) bool { return false }
