package pg_test

import (
	"flag"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/backfillhq/go/internal/needs"
)

// A test makes this many runs, of 120 steps each on average, as far as it has the time.
var leaseRuns, leaseTime = 25, 5 * time.Second

func init() { //nolint:gochecknoinits // defaults of rapid's flags, which the command line may change
	if needs.All() {
		leaseRuns, leaseTime = 300, 50*time.Second
	}
	_ = flag.Set("rapid.checks", strconv.Itoa(leaseRuns))
	_ = flag.Set("rapid.steps", "120")
}

// Whatever workers, peers and operators do, and in whatever order: the tables hold what the model
// says, and so do the answers that workers get.
func TestLeaseProtocol(t *testing.T) {
	t.Parallel()
	db := newLeaseDB(t)
	runs, broken, until := 0, false, time.Now().Add(leaseTime)
	rapid.Check(t, func(rt *rapid.T) {
		if broken || time.Now().Before(until) { // one that has failed is made again
			runs++
			db.run(rt, func(what string) {
				broken = true
				rt.Fatal(what)
			})
		}
	})
	t.Logf("%d runs", runs)
	if runs >= 300 { // with fewer, rare things may not have happened
		events := slices.Clone(leaseEvents)
		for _, s := range leaseSteps {
			events = append(events, s.name)
		}
		for _, what := range events {
			if db.seen[what] == 0 {
				t.Errorf("in no run: %s", what)
			}
		}
	}
	for _, what := range slices.Sorted(maps.Keys(db.seen)) {
		t.Logf("%6d %s", db.seen[what], what)
	}
}

// leaseEvents are what the runs together have to meet, beside each of the steps.
var leaseEvents = []string{
	"complete: recorded", "complete: lost", "fail: recorded", "fail: exhausted", "fail: superseded", "fail: lost",
	"release: recorded", "release: exhausted", "release: superseded", "release: lost", "renew: recorded", "renew: lost",
	"end: busy", "rescue: released", "rescue: crashed", "reclaim: released", "enqueue: overwritten", "enqueue: superseded",
	"complete: cancelled", "fail: cancelled", "release: cancelled", "rescue: cancelled", "reclaim: cancelled", "claim: cancelled",
	"cancel: waiting", "cancel: running", "look: cancelled",
	"complete: cleared", "sweep: dead letters", "enqueue: kept", "remove: deleted", "remove: running",
}
