package devpg

import (
	"context"
	"time"
)

// poll calls done until it says yes or fails, or ctx ends.
func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		ok, err := done()
		if ok || err != nil {
			return err
		}
		timer.Reset(every)
	}
}

// waitLock takes the lock at path as soon as nobody has it.
func waitLock(ctx context.Context, path string) (*fileLock, error) {
	var lock *fileLock
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		var err error
		lock, err = tryLock(path)
		return lock != nil, err
	})
	return lock, err
}
