//go:build !linux

package worker

import "time"

// sinceBoot says that there is no clock that counts while the machine is suspended, too.
func sinceBoot() time.Duration { return 0 }
