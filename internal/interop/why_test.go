package interop_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Why answers on a database that nobody but Node has installed and used, and says of Node workers
// only what can be known.
func TestWhyOnNodesDatabase(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db = pgtest.Empty(t)
	node := startPeer(f)
	node.work(bodies{"sync": "await tell(helpers); await released"}, map[string]any{"preset": map[string]any{"worker": map[string]any{"concurrentJobs": 2}}})
	operator, err := admin.Open(f.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Close)
	why := func(id int64, want admin.Code, parts ...string) *admin.Explanation {
		t.Helper()
		x, err := operator.Why(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		text := x.Blocker.Text
		for _, remedy := range x.Blocker.Remedies {
			text += "\n" + remedy.Text + "\n" + remedy.Command
		}
		if x.Blocker.Code != want {
			t.Errorf("job %d: code %s, want %s: %s", id, x.Blocker.Code, want, text)
		}
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%q is not in: %s", part, text)
			}
		}
		return x
	}
	add := func(name string, spec map[string]any) int64 {
		t.Helper()
		return node.add(name, full, spec).ID
	}
	first := add("sync", map[string]any{"queueName": "user:7"})
	free := add("sync", nil)
	_, before := node.record.await(t, "a job", 0, is("job"))
	node.record.await(t, "both jobs", len(before)+1, is("job"))
	var waiting int64
	for range 3 {
		waiting = add("sync", map[string]any{"queueName": "user:7"})
	}
	other := add("other", nil)
	later := add("sync", map[string]any{"runAt": due.AddDate(100, 0, 0)})
	pool := dbtest.Get[string](t, f.db.Pool(), "select locked_by from graphile_worker._private_jobs where id = $1", first)

	x := why(free, admin.RunningElsewhere, pool, "no Go worker", "no heartbeat", "session listens as a Node worker does", "released 4 hours after", "If you know that the process is gone, and only then")
	if len(x.Missing) > 0 {
		t.Errorf("missing: %+v", x.Missing)
	}
	why(waiting, admin.QueueHeld, `"user:7"`, fmt.Sprintf("job %d of the queue runs", first), "2 more jobs of the queue are before this one", "no heartbeat")
	why(other, admin.PeersUnknown, `"other"`, "do not say which tasks they take", "There is no table of Go workers")
	why(later, admin.NotDue)
	why(later+1000, admin.NotGivenOut)

	if err := node.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.record.awaitEnd(t) // killed
	dbtest.Until(t, func() bool {
		return dbtest.Get[int](t, f.db.Pool(), `select count(*)::int from pg_stat_activity where datname = current_database() and query ilike 'listen%'`) == 0
	})
	why(waiting, admin.QueueHeld, "No session that listens as a Node worker does", "force_unlock_workers(array[")
	why(other, admin.NoWorker, "none is connected")

	dbtest.Run(t, f.db.Pool(), "delete from graphile_worker._private_jobs where id = $1", first)
	x = why(waiting, admin.QueueLocked, `"user:7"`, "No job of the queue is locked")
	dbtest.Run(t, f.db.Pool(), strings.TrimSuffix(x.Blocker.Remedies[0].Command, ";"))
	why(waiting, admin.NoWorker)
	if n := dbtest.Get[int](t, f.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where locked_by is not null"); n != 1 {
		t.Errorf("%d jobs are locked: the remedy was for one queue", n)
	}
}
