package devpg

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const errorSharingViolation = syscall.Errno(32)

// A fileLock is a file that is open for one process alone.
type fileLock struct{ handle syscall.Handle }

// tryLock takes the lock at path, which it creates. It returns nil when another
// process has it.
func tryLock(path string) (*fileLock, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	handle, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &fileLock{handle: handle}, nil
}

func (l *fileLock) release() {
	// An error would mean that it is closed.
	_ = syscall.CloseHandle(l.handle)
}

// removeLocked removes a folder whose lock we hold, and releases the lock. An
// open file cannot be removed here.
func removeLocked(dir string, lock *fileLock) error {
	lock.release()
	return os.RemoveAll(dir)
}
