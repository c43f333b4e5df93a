package schema

import "time"

// WithStandstill shortens how long another installer may make no progress.
func (o Options) WithStandstill(d time.Duration) Options {
	o.standstill = d
	return o
}
