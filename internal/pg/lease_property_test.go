package pg_test

import (
	"flag"
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/backfillhq/go/internal/needs"
)

// leaseRuns is how many runs a test makes, each of 120 steps on average.
var leaseRuns = 25

func init() { //nolint:gochecknoinits // defaults of rapid's flags, which the command line may change
	if needs.All() {
		leaseRuns = 300
	}
	_ = flag.Set("rapid.checks", strconv.Itoa(leaseRuns))
	_ = flag.Set("rapid.steps", "120")
}

// Whatever workers, peers and operators do, and in whatever order: the tables hold what the model
// says, and so do the answers that workers get.
func TestLeaseProtocol(t *testing.T) {
	t.Parallel()
	db := newLeaseDB(t)
	rapid.Check(t, func(rt *rapid.T) { db.run(rt, func(what string) { rt.Fatal(what) }) })
	if needs.All() { // else rare things may not have happened
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
	"enqueue: kept", "remove: deleted", "remove: running",
}
