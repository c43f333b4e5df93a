package pg_test

import (
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
)

// Whoever ends a lease learns whether the job that is now first in its queue is due, and one of its
// own tasks.
func TestNextInQueue(t *testing.T) {
	t.Parallel()
	const own, foreign = "'a', queue_name := 'q'", "'foreign', queue_name := 'q'"
	tests := map[string]struct {
		next             []string
		wantOwn, wantFor int
	}{
		"none":                          {},
		"own":                           {[]string{own, foreign}, 1, 0},
		"foreign":                       {[]string{foreign, own}, 0, 1},
		"foreign by priority":           {[]string{own, foreign + ", priority := -1"}, 0, 1},
		"not due":                       {[]string{own + ", run_at := now() + interval '1 hour'"}, 0, 0},
		"another behind one not due":    {[]string{foreign + ", priority := -1, run_at := now() + interval '1 hour'", own}, 1, 0},
		"of another queue, and of none": {[]string{"'foreign', queue_name := 'other'", "'foreign'"}, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for ending, end := range endings {
				dbtest.Run(t, r.pool, "delete from graphile_worker._private_jobs")
				r.add(own + ", priority := -9")
				r.add("'b', priority := -9") // free
				jobs := r.claim(2)
				for _, arguments := range test.next {
					r.add(arguments)
				}
				settled := end(r, jobs...)
				if settled.NextOwn != test.wantOwn || settled.NextForeign != test.wantFor {
					t.Errorf("%s: next are %d own, %d foreign; want %d, %d",
						ending, settled.NextOwn, settled.NextForeign, test.wantOwn, test.wantFor)
				}
			}
		})
	}
}
