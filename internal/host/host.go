// Package host tells whether another process of this machine is gone.
package host

// Process names a process for others on the same machine. The zero value names none: what does not
// know its machine is never judged.
type Process struct {
	// Machine is where process ids and start times mean the same: the boot id of the system, and the
	// namespaces of process ids and of time. "": not known.
	Machine string
	PID     int
	Start   int64 // the start time, in the system's own unit
}

// Gone reports whether a process that named itself is certainly gone. It is false for a process of
// another machine, and wherever this one cannot tell.
func (p Process) Gone() bool {
	self := Self()
	return p.PID > 0 && p.Machine != "" && p.Machine == self.Machine && gone(p)
}
