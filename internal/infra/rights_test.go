package infra_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/testutil/pgtest"
)

// policy is a right that is taken away by dropping it.
const policy = "policy"

// lostRight is one that an operator takes away. says: how somebody says that it is missing, the
// worker or, of otherRights, an enqueue of its client; "": nobody. start: how the next worker says
// it that starts.
type lostRight struct{ right, on, says, start string }

func (r lostRight) name() string { return r.right + " " + r.on }

// neededRights are those without which a worker does nothing, or not all.
var neededRights = []lostRight{
	{"usage", "schema graphile_worker", "permission denied for schema graphile_worker", ""},
	{"select", "_private_jobs", "permission denied for table _private_jobs", ""},
	{"update", "_private_jobs", "permission denied for table _private_jobs", ""},
	{"delete", "_private_jobs", "permission denied for table _private_jobs", ""},
	{policy, "_private_jobs", "hides the rows of _private_jobs", ""},
	{"select", "_private_job_queues", "permission denied for table _private_job_queues", ""},
	{"update", "_private_job_queues", "permission denied for table _private_job_queues", ""},
	{policy, "_private_job_queues", "hides the rows of _private_job_queues", ""},
	{"select", "_private_tasks", "permission denied for table _private_tasks", ""},
	{policy, "_private_tasks", "hides the rows of _private_tasks", ""},
	{"select", "backfill_workers", "permission denied for table backfill_workers", ""},
	{"update", "backfill_workers", "permission denied for table backfill_workers", ""},
	{policy, "backfill_workers", `security policy for table "backfill_workers"`, ""},
	{"select", "backfill_pauses", "permission denied for table backfill_pauses", ""},
	{policy, "backfill_pauses", "hides the rows of backfill_pauses", ""},
	{"select", "backfill_queue_pauses", "permission denied for table backfill_queue_pauses", ""},
	{policy, "backfill_queue_pauses", "hides the rows of backfill_queue_pauses", ""},
	{"select", "backfill_cancels", "permission denied for table backfill_cancels", ""},
	{"update", "backfill_cancels", "permission denied for table backfill_cancels", ""},
	{"delete", "backfill_cancels", "permission denied for table backfill_cancels", ""},
	{policy, "backfill_cancels", "hides the rows of backfill_cancels", ""},
	{policy, "backfill_history", "hides the rows of backfill_history", ""},
	{policy, "backfill_history_tasks", "hides the rows of backfill_history_tasks", ""},
	{"all", "_private_jobs", "permission denied for table _private_jobs", ""},
	{"everything", "", "permission denied for", ""},
}

// cronRights are those that only cron jobs need.
var cronRights = []lostRight{
	{"select", "_private_known_crontabs", "permission denied for table _private_known_crontabs", ""},
	{"insert", "_private_known_crontabs", "permission denied for table _private_known_crontabs", ""},
	{"update", "_private_known_crontabs", "permission denied for table _private_known_crontabs", ""},
	{policy, "_private_known_crontabs", `security policy for table "_private_known_crontabs"`, ""},
	{"insert", "_private_jobs", "permission denied for table _private_jobs", ""},
}

// otherRights are those that a worker that has started can do without.
var otherRights = []lostRight{
	{"insert", "_private_jobs", "permission denied for table _private_jobs", ""},
	{"insert", "_private_job_queues", "permission denied for table _private_job_queues", ""},
	{"insert", "_private_tasks", "permission denied for table _private_tasks", ""},
	{"insert", "backfill_workers", "", "permission denied for table backfill_workers"},
	{"delete", "backfill_workers", "", "permission denied for table backfill_workers"},
	{"insert, update, delete", "backfill_pauses", "", ""},
	{"insert, update, delete", "backfill_queue_pauses", "", ""},
	{"insert", "backfill_cancels", "", ""},
	{"select, insert, update, delete", "backfill_traces", "", ""},
	{"insert, update, delete", "backfill_history_tasks", "", ""},
	{"select", "migrations", "", ""},
	{"select", "backfill_migrations", "", ""},
	{"execute", "all functions in schema graphile_worker", "", ""},
}

// office is a database with a role that has rights in it.
type office struct {
	*testing.T

	db    *pgtest.Database
	admin *pgx.Conn
	role  login
	kind  schema.RoleKind
}

func newOffice(t *testing.T, kind schema.RoleKind) *office {
	t.Helper()
	db := pgtest.New(t)
	o := &office{t, db, dbtest.Connect(t, db.URL), newLogin(t, db.URL), kind}
	o.grant()
	return o
}

// grant gives the role what it lacks, as backfill migrate does.
func (o *office) grant() {
	o.Helper()
	if _, err := schema.GrantRole(o.Context(), o.admin, o.role.name, o.kind, schema.Options{Schema: "graphile_worker"}); err != nil {
		o.Fatal(err)
	}
}

func (o *office) revoke(right, on string) {
	o.Helper()
	if !strings.Contains(on, " ") {
		on = "graphile_worker." + on
	}
	switch right {
	case policy:
		dbtest.Run(o.T, o.admin, "drop policy backfill_"+o.role.name+" on "+on)
	case "everything":
		dbtest.Run(o.T, o.admin, "drop owned by "+o.role.quoted())
	default:
		dbtest.Run(o.T, o.admin, "revoke "+right+" on "+on+" from public, "+o.role.quoted())
	}
}

// A role loses a right while its worker works: the worker says which, and which command gives it
// back. Once it has it again, the worker goes on by itself, and says so.
func TestWorkerLosesARight(t *testing.T) {
	t.Parallel()
	long(t)
	sideBySide(t, neededRights, lostRight.name, func(t *testing.T, c lostRight) {
		t.Helper()
		o := newOffice(t, schema.WorkerRole)
		var log logbook
		defer log.show(t)
		j := newJournal()
		task, registry := j.work()
		w := start(t, open(t, o.role.url, &log), registry)
		owner := open(t, o.db.URL, &logbook{})
		work := func() {
			t.Helper()
			for _, queue := range []string{"", "q"} {
				if err := j.enqueue(t.Context(), owner, task, "", backfill.Queue(queue)); err != nil {
					t.Fatal(err)
				}
			}
		}
		done := func() bool {
			return len(j.lost()) == 0 && dbtest.Get[int](t, o.admin, "select count(*)::int from graphile_worker._private_jobs") == 0
		}
		work()
		within(t, hang, "the first jobs", done)
		o.revoke(c.right, c.on)
		work()
		command := "backfill migrate --worker-role " + o.role.name
		within(t, 15*time.Second, "a line that says what is missing", func() bool {
			return len(besideSweeps(log.from(slog.LevelWarn, c.says, command))) > 0
		})
		w.lives()
		o.grant()
		took := within(t, 15*time.Second, "the jobs that waited", done)
		t.Logf("the jobs had run %v after the right was back", took.Round(time.Millisecond))
		if n := len(log.from(slog.LevelWarn)); n > 25 {
			t.Errorf("%d lines", n)
		}
		within(t, 15*time.Second, "a line that says that it is over", func() bool { return len(log.with("again")) > 0 })
		for _, over := range []string{"claims succeed again", "outcomes are recorded again", "heartbeats succeed again"} {
			if n := len(log.with(over)); n > 1 {
				t.Errorf("%d lines say %q", n, over)
			}
		}
	})
}

// besideSweeps leaves out what a sweep says, as the one at the start. It is repeated minutes later,
// and neither that it has failed nor that it is over says anything of the claims.
func besideSweeps(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "releasing stale locks") })
}

// What a worker could not record because row level security hid its jobs counts as lost. Once it
// sees them again, it releases them, and they run.
func TestOutcomesOfHiddenJobs(t *testing.T) {
	t.Parallel()
	long(t)
	o := newOffice(t, schema.WorkerRole)
	var log logbook
	defer log.show(t)
	inside, release := make(chan int, 10), make(chan struct{})
	task := &backfill.Task[job]{Name: "note"}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, args job) error {
		inside <- backfill.JobInfo(ctx).Attempt
		<-release
		return nil
	}))
	client := open(t, o.role.url, &log)
	start(t, client, registry)
	if _, err := backfill.Enqueue(t.Context(), client, task, job{1, ""}, backfill.Queue("q")); err != nil {
		t.Fatal(err)
	}
	receive(t, "the job", inside)
	o.revoke(policy, "_private_jobs")
	close(release)
	within(t, 15*time.Second, "a line that says what is missing", func() bool {
		return len(besideSweeps(log.from(slog.LevelWarn, "hides the rows"))) > 0
	})
	within(t, 15*time.Second, "a line about the lost outcome", func() bool { return len(log.with("leases lost", "note 1")) > 0 })
	once, err := client.NewWorker(registry)
	if err != nil {
		t.Fatal(err)
	}
	_, err = once.RunOnce(t.Context())
	dbtest.Mentions(t, err, "hides the rows of _private_jobs", "backfill migrate --worker-role "+o.role.name)
	o.grant()
	within(t, 20*time.Second, "the job again", func() bool { return len(inside) > 0 })
	if attempt := <-inside; attempt != 1 {
		t.Errorf("it is attempt %d", attempt)
	}
	within(t, 15*time.Second, "its end", func() bool {
		return dbtest.Get[int](t, o.admin, "select count(*)::int from graphile_worker._private_jobs") == 0
	})
}

// The same for what only cron jobs need. The worker starts without it, and works.
func TestCronLosesARight(t *testing.T) {
	t.Parallel()
	long(t)
	sideBySide(t, cronRights, lostRight.name, func(t *testing.T, c lostRight) {
		t.Helper()
		o := newOffice(t, schema.WorkerRole)
		o.revoke(c.right, c.on)
		if c.right != "insert" || c.on == "_private_jobs" {
			dbtest.Run(t, o.admin, "insert into graphile_worker._private_known_crontabs values ('note', now() - interval '1 hour', now() - interval '3 minutes')")
		}
		var log logbook
		defer log.show(t)
		j := newJournal()
		task, registry := j.work(backfill.Cron("* * * * * ?fill=10m"))
		start(t, open(t, o.role.url, &log), registry)
		if err := j.enqueue(t.Context(), open(t, o.db.URL, &logbook{}), task, ""); err != nil {
			t.Fatal(err)
		}
		within(t, hang, "the job", func() bool { return len(j.lost()) == 0 })
		command := "backfill migrate --worker-role " + o.role.name
		within(t, 15*time.Second, "a line that says what is missing", func() bool {
			return len(log.from(slog.LevelWarn, "scheduling cron jobs failed", c.says, command)) > 0
		})
		o.grant()
		within(t, 15*time.Second, "the crontab to be known", func() bool {
			return dbtest.Get[int](t, o.admin, `select count(*)::int from graphile_worker._private_known_crontabs
					where last_execution > now() - interval '2 minutes' or last_execution is null`) == 1
		})
		if n := len(log.from(slog.LevelWarn)); n > 12 {
			t.Errorf("%d lines", n)
		}
	})
}

// What a worker has needed at its start only, and what only enqueues need, it can lose: it works
// on, and who needs it is told.
func TestLostRightsOfOthers(t *testing.T) {
	t.Parallel()
	long(t)
	sideBySide(t, otherRights, lostRight.name, func(t *testing.T, c lostRight) {
		t.Helper()
		o := newOffice(t, schema.WorkerRole)
		var log logbook
		defer log.show(t)
		j := newJournal()
		task, registry := j.work()
		client := open(t, o.role.url, &log)
		start(t, client, registry)
		owner := open(t, o.db.URL, &logbook{})
		o.revoke(c.right, c.on)
		for range 3 {
			if err := j.enqueue(t.Context(), owner, task, "", backfill.Queue("q")); err != nil {
				t.Fatal(err)
			}
		}
		within(t, hang, "the jobs", func() bool { return len(j.lost()) == 0 })
		unknown := backfill.Request{Task: "unknown", Args: []byte("{}"), Queue: "unknown"}
		_, err := client.Enqueue(t.Context(), unknown)
		if c.says != "" {
			dbtest.Mentions(t, err, c.says, o.role.name, "backfill migrate --")
		} else if err != nil {
			t.Error(err)
		}
		once, err := client.NewWorker(registry)
		if err != nil {
			t.Fatal(err)
		}
		_, err = once.RunOnce(t.Context())
		if c.start != "" {
			dbtest.Mentions(t, err, c.start, "backfill migrate --worker-role "+o.role.name)
		} else if err != nil {
			t.Error(err)
		}
		o.grant()
		if _, err := client.Enqueue(t.Context(), unknown); err != nil {
			t.Errorf("with the right again: %v", err)
		}
		if lines := besideSweeps(log.from(slog.LevelWarn)); len(lines) > 0 { // which keep history and traces
			t.Errorf("the worker logs %q", lines)
		}
	})
}

// A producer whose role may only enqueue is told what it has lost and which command gives it back,
// and enqueues again with the same client.
func TestProducerLosesARight(t *testing.T) {
	t.Parallel()
	for _, c := range []lostRight{
		{"usage", "schema graphile_worker", "permission denied for schema graphile_worker", ""},
		{"execute", "function graphile_worker.backfill_enqueue", "permission denied for", ""},
		{"everything", "", "permission denied for", ""},
	} {
		t.Run(c.right, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, schema.EnqueueRole)
			j := newJournal()
			task, _ := j.work()
			client := open(t, o.role.url, &logbook{})
			ways := map[string]func() error{
				"one":   func() error { return j.enqueue(t.Context(), client, task, "") },
				"keyed": func() error { return j.enqueue(t.Context(), client, task, "", backfill.Key("k")) },
				"in a transaction": func() error {
					conn := dbtest.Connect(t, o.role.url)
					return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
						return j.enqueue(t.Context(), client.WithTx(tx), task, "")
					})
				},
			}
			all := func(what string, check func(error) bool) {
				for name, enqueue := range ways {
					if err := enqueue(); !check(err) {
						t.Errorf("%s, %s: %v", what, name, err)
					}
				}
			}
			all("before", func(err error) bool { return err == nil })
			o.revoke(c.right, c.on)
			command := "backfill migrate --enqueue-role " + o.role.name
			all("without the right", func(err error) bool {
				return err != nil && strings.Contains(err.Error(), c.says) && strings.Contains(err.Error(), command)
			})
			o.grant()
			all("with the right again", func(err error) bool { return err == nil })
		})
	}
}
