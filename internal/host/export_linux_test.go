package host

// Named names another process as it would itself, for tests.
func Named(pid int) (Process, error) {
	process := Self()
	process.PID = pid
	var err error
	_, process.Start, err = stat(pid)
	return process, err
}
