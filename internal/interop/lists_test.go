package interop_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Lists work on a database that nobody but Node has installed and used, and find what its workers run.
func TestListsOfNodesDatabase(t *testing.T) {
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
	running := node.add("sync", map[string]any{"password": "hunter22"}, map[string]any{"queueName": "user:7"}).ID
	node.record.await(t, "the job", 0, is("job"))
	waiting := node.add("other", full, nil).ID
	pool := dbtest.Get[string](t, f.db.Pool(), "select locked_by from graphile_worker._private_jobs where id = $1", running)

	list, err := operator.Jobs(t.Context(), admin.JobFilter{States: []admin.JobState{admin.JobRunning}}, admin.JobPage{})
	if err != nil || len(list.Jobs) != 1 || list.Jobs[0].ID != running || list.Jobs[0].LockedBy != pool || len(list.Missing) > 0 || list.Next != "" {
		t.Errorf("running are %+v, %v", list, err)
	}
	if text := string(list.Jobs[0].Payload); !strings.Contains(text, admin.Redacted) || strings.Contains(text, "hunter22") {
		t.Errorf("its args are shown as %s", text)
	}
	job, err := operator.Job(t.Context(), waiting)
	if err != nil || job.State != admin.JobDue || job.Task != "other" {
		t.Errorf("job %+v, %v", job, err)
	}
	workers, err := operator.Workers(t.Context())
	if err != nil || len(workers.Workers) != 0 || workers.NodeSessions == nil || *workers.NodeSessions == 0 {
		t.Errorf("workers %+v, %v", workers, err)
	}
	locks, err := operator.Locks(t.Context())
	if err != nil || len(locks.Locks) != 1 || locks.Locks[0].Holder != admin.HolderUnknown || len(locks.Locks[0].Jobs) != 1 || !slices.Equal(locks.Locks[0].Queues, []string{"user:7"}) {
		t.Errorf("locks %+v, %v", locks, err)
	}
	queues, err := operator.Queues(t.Context(), admin.QueueFilter{}, admin.NamePage{})
	if err != nil || len(queues.Queues) != 1 || queues.Queues[0].LockedBy != pool || queues.Queues[0].Jobs != nil || len(queues.Missing) != 1 {
		t.Errorf("queues %+v, %v", queues, err)
	}
	counts, err := operator.Counts(t.Context())
	if err != nil || counts.Running != (admin.Count{N: 1, Exact: true}) || counts.Due != (admin.Count{N: 1, Exact: true}) {
		t.Errorf("counts %+v, %v", counts, err)
	}
}

// No row that the tables of Node's allow makes a list fail.
func TestListsOfAnyRows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.db = pgtest.Empty(t)
	startPeer(f).add("sync", full, nil) // which installs the tables
	dbtest.Run(t, f.db.Pool(), "truncate graphile_worker._private_jobs, graphile_worker._private_tasks restart identity")
	dbtest.Scatter(t, dbtest.Connect(t, f.db.URL))
	operator, err := admin.Open(f.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Close)
	all, err := operator.Jobs(t.Context(), admin.JobFilter{}, admin.JobPage{Size: 1000})
	if err != nil || len(all.Jobs) != 600 || len(all.Missing) > 0 {
		t.Fatalf("%d jobs, missing %+v, %v", len(all.Jobs), all.Missing, err)
	}
	for _, ask := range []func() (any, error){
		func() (any, error) {
			return operator.Jobs(t.Context(), admin.JobFilter{PayloadContains: json.RawMessage(`{"n": 1}`)}, admin.JobPage{})
		},
		func() (any, error) { return operator.Counts(t.Context()) },
		func() (any, error) { return operator.Tasks(t.Context()) },
		func() (any, error) { return operator.Locks(t.Context()) },
		func() (any, error) { return operator.Pauses(t.Context()) },
		func() (any, error) { return operator.Letters(t.Context(), admin.LetterFilter{}, admin.LetterPage{}) },
		func() (any, error) { return operator.Crontabs(t.Context(), admin.NamePage{}) },
	} {
		answer, err := ask()
		text, problem := json.Marshal(answer)
		if err != nil || problem != nil || strings.Contains(string(text), `"missing"`) {
			t.Errorf("%T: %v, %v: %.300s", answer, err, problem, text)
		}
	}
}
