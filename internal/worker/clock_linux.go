package worker

import (
	"syscall"
	"time"
	"unsafe"
)

const clockBoottime = 7 // CLOCK_BOOTTIME, which package syscall has no name for

// sinceBoot reads the clock that counts while the machine is suspended, too; 0 if there is none.
func sinceBoot() time.Duration {
	var ts syscall.Timespec
	_, _, err := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0) //nolint:gosec // the call's way to answer
	if err != 0 {
		return 0
	}
	return time.Duration(ts.Nano())
}
