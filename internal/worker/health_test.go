package worker

import (
	"testing"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// How far behind a worker is, jobs that were put at -infinity do not hide, wherever they stand.
func TestOldestDueBesideInfinity(t *testing.T) {
	t.Parallel()
	const behind = time.Hour
	now := time.Now()
	endless, late, fresh := &wire.Job{}, &wire.Job{RunAt: now.Add(-behind)}, &wire.Job{RunAt: now}
	for _, jobs := range [][]*wire.Job{
		{late, fresh}, {endless, late, fresh}, {late, endless, fresh}, {fresh, late, endless},
	} {
		if got := oldestDue(jobs); !got.Equal(late.RunAt) {
			t.Errorf("oldest is %v, want %v", got, late.RunAt)
		}
	}
	if got := oldestDue([]*wire.Job{endless}); !got.IsZero() {
		t.Errorf("of -infinity alone, oldest is %v", got)
	}
}
