package pgstore

import "time"

// WithStandstill shortens how long another installer may make no progress.
func (o MigrateOptions) WithStandstill(d time.Duration) MigrateOptions {
	o.standstill = d
	return o
}
