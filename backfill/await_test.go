package backfill_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

type sumArgs struct {
	A, B int64
	How  string
}

type sum struct {
	Total int64 `json:"total"`
}

var taskAdd = &backfill.Task[sumArgs]{Name: "add", History: 24 * time.Hour, MaxAttempts: 3, Timeout: time.Minute, Backoff: backfill.FixedBackoff(time.Millisecond)}

// awaitRig is a client with a task that returns sums, and fails as its args say.
type awaitRig struct {
	*testing.T
	db       *pgtest.Database
	client   *backfill.Client
	registry *backfill.Registry
	began    chan int64    // jobs that wait for goOn
	goOn     chan struct{} // closed: all do
}

func newAwaitRig(t *testing.T) *awaitRig {
	t.Helper()
	db := pgtest.New(t)
	r := &awaitRig{T: t, db: db, client: newClient(t, db), began: make(chan int64, 100), goOn: make(chan struct{})}
	r.registry = backfill.NewRegistry(backfill.Handle(taskAdd, backfill.Returning[sumArgs, *sum](r.add)))
	return r
}

func (r *awaitRig) add(ctx context.Context, args sumArgs) (*sum, error) {
	switch args.How {
	case "null":
		return nil, nil
	case "boom":
		return nil, errBoom
	case "permanent":
		return &sum{1}, backfill.Permanent(errBoom)
	case "once":
		if backfill.JobInfo(ctx).Attempt == 1 {
			return nil, errBoom
		}
	case "large":
		return nil, backfill.Output(ctx, strings.Repeat("x", backfill.MaxOutput))
	case "waits":
		r.began <- backfill.JobInfo(ctx).ID
		select {
		case <-r.goOn:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return &sum{args.A + args.B}, nil
}

func (r *awaitRig) enqueue(args sumArgs, opts ...backfill.EnqueueOption) *backfill.Job {
	r.Helper()
	return enqueue(r.T, r.client, taskAdd, args, opts...)
}

// keeps makes the task one of which a history is kept.
func (r *awaitRig) keeps() {
	r.Helper()
	w := start(r.T, r.client, r.registry)
	dbtest.Until(r.T, func() bool {
		return get[bool](r.T, r.db.Pool(), "select exists (select from graphile_worker.backfill_history_tasks)")
	})
	if err := w.stop(); err != nil {
		r.Error(err)
	}
}

// await waits for a job in the background.
func (r *awaitRig) await(ctx context.Context, job *backfill.Job) func() (*sum, error) {
	type answer struct {
		sum *sum
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		result, err := backfill.Await[*sum](ctx, r.client, taskAdd, job)
		answers <- answer{result, err}
	}()
	return func() (*sum, error) {
		r.Helper()
		got := receive(r.T, "the end of a job", answers)
		return got.sum, got.err
	}
}

// total fails the test unless the answer is a sum.
func (r *awaitRig) total(answer func() (*sum, error), want int64) {
	r.Helper()
	if got, err := answer(); err != nil || got == nil || got.Total != want {
		r.Errorf("got %v, %v, want %d", got, err, want)
	}
}

// ends fails the test unless the answer is this end, with these parts in its text.
func (r *awaitRig) ends(answer func() (*sum, error), want backfill.JobEnd, parts ...string) backfill.EndError {
	r.Helper()
	got, err := answer()
	end, ok := errors.AsType[*backfill.EndError](err)
	if !ok || end.End != want {
		r.Fatalf("got %v, %v, want the end %q", got, err, want)
	}
	dbtest.Mentions(r.T, err, parts...)
	for kind, of := range map[error]backfill.JobEnd{
		backfill.ErrCanceled: backfill.EndCanceled, backfill.ErrNoHistory: backfill.EndNoHistory, backfill.ErrJobNotFound: backfill.EndUnknown,
	} {
		if errors.Is(err, kind) != (of == want) {
			r.Errorf("errors.Is(%v, %v)", err, kind)
		}
	}
	return *end
}

// X132: each way in which a job ends has its outcome, whether it ends before somebody waits, or
// meanwhile.
func TestAwaitEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args sumArgs
		opts []backfill.WorkerOption
		want func(r *awaitRig, answer func() (*sum, error))
	}{
		"completed": {sumArgs{A: 1, B: 2}, nil, func(r *awaitRig, answer func() (*sum, error)) { r.total(answer, 3) }},
		"completed at the second attempt": {sumArgs{A: 1, B: 2, How: "once"}, []backfill.WorkerOption{backfill.WithScheduled()}, func(r *awaitRig, answer func() (*sum, error)) {
			r.total(answer, 3)
		}},
		"null": {sumArgs{How: "null"}, nil, func(r *awaitRig, answer func() (*sum, error)) {
			if got, err := answer(); got != nil || err != nil {
				r.Errorf("got %v, %v", got, err)
			}
		}},
		"dead": {sumArgs{How: "permanent"}, nil, func(r *awaitRig, answer func() (*sum, error)) {
			if end := r.ends(answer, backfill.EndFailed, "dead letter 1", errBoom.Error()); end.DeadLetterID != 1 || end.Attempt != 1 || end.LastError != errBoom.Error() || end.EndedAt.IsZero() {
				r.Errorf("end %+v", end)
			}
		}},
		"exhausted": {sumArgs{How: "boom"}, []backfill.WorkerOption{backfill.WithScheduled()}, func(r *awaitRig, answer func() (*sum, error)) {
			if end := r.ends(answer, backfill.EndFailed, "in attempt 3"); end.Attempt != 3 {
				r.Errorf("end %+v", end)
			}
		}},
		"failed without a dead letter": {sumArgs{How: "permanent"}, []backfill.WorkerOption{backfill.WithoutDeadLetters()}, func(r *awaitRig, answer func() (*sum, error)) {
			if end := r.ends(answer, backfill.EndFailed, errBoom.Error()); end.DeadLetterID != 0 {
				r.Errorf("end %+v", end)
			}
		}},
		"too large": {sumArgs{How: "large"}, []backfill.WorkerOption{backfill.WithScheduled()}, func(r *awaitRig, answer func() (*sum, error)) {
			r.ends(answer, backfill.EndFailed, "the output has")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newAwaitRig(t)
			job := r.enqueue(test.args)
			early := r.await(t.Context(), job)
			runOnce(t, r.client, r.registry, test.opts...)
			test.want(r, early)
			test.want(r, r.await(t.Context(), job))
			test.want(r, r.await(t.Context(), &backfill.Job{ID: job.ID, Task: job.Task}))
		})
	}
}

// What others do to a job while somebody waits for it.
func TestAwaitOthers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(r *awaitRig){
		"canceled before it ran": func(r *awaitRig) {
			r.keeps()
			job := r.enqueue(sumArgs{})
			answer := r.await(r.Context(), job)
			cancelJob(r.T, r.client, job.ID)
			r.ends(answer, backfill.EndCanceled)
		},
		"canceled while it ran": func(r *awaitRig) {
			job := r.enqueue(sumArgs{How: "waits"})
			w := start(r.T, r.client, r.registry)
			answer := r.await(r.Context(), job)
			receive(r.T, "the handler", r.began)
			cancelJob(r.T, r.client, job.ID)
			r.ends(answer, backfill.EndCanceled)
			_ = w.stop()
		},
		"superseded": func(r *awaitRig) {
			job := r.enqueue(sumArgs{How: "waits"}, backfill.Key("k"))
			w := start(r.T, r.client, r.registry, backfill.WithDrainTimeout(0))
			answer := r.await(r.Context(), job)
			receive(r.T, "the handler", r.began)
			next := r.enqueue(sumArgs{A: 4}, backfill.Key("k"))
			_ = w.stop() // its handler fails
			runOnce(r.T, r.client, r.registry)
			r.ends(answer, backfill.EndSuperseded)
			r.total(r.await(r.Context(), next), 4)
		},
		"replaced": func(r *awaitRig) {
			job := r.enqueue(sumArgs{A: 1}, backfill.Key("k"), backfill.Delay(time.Hour))
			answer := r.await(r.Context(), job)
			r.enqueue(sumArgs{A: 2}, backfill.Key("k"), backfill.Delay(time.Hour))
			r.ends(answer, backfill.EndReplaced, "enqueued again")
		},
		"enqueued again with the same args": func(r *awaitRig) {
			job := r.enqueue(sumArgs{A: 1}, backfill.Key("k"))
			answer := r.await(r.Context(), job)
			again := r.enqueue(sumArgs{A: 1}, backfill.Key("k"))
			deduped := r.enqueue(sumArgs{A: 9}, backfill.Key("k"), backfill.UnsafeDedupe)
			for _, other := range []*backfill.Job{again, deduped} {
				if other.ID != job.ID {
					r.Fatalf("jobs %d and %d", job.ID, other.ID)
				}
			}
			<-time.After(200 * time.Millisecond) // it looks a few times
			runOnce(r.T, r.client, r.registry)
			r.total(answer, 1)
		},
		"unlocked, and run elsewhere": func(r *awaitRig) {
			job := r.enqueue(sumArgs{A: 5, How: "waits"})
			w := start(r.T, r.client, r.registry)
			answer := r.await(r.Context(), job)
			receive(r.T, "the handler", r.began)
			if _, err := r.client.UnlockWorker(r.Context(), get[string](r.T, r.db.Pool(), "select locked_by from graphile_worker._private_jobs")); err != nil {
				r.Fatal(err)
			}
			receive(r.T, "the handler again", r.began)
			close(r.goOn)
			r.total(answer, 5)
			_ = w.stop()
		},
		"removed by hand": func(r *awaitRig) {
			job := r.enqueue(sumArgs{})
			runOnce(r.T, r.client, backfill.NewRegistry(backfill.Handle(taskAdd, func(context.Context, sumArgs) error { return nil })))
			r.ends(r.await(r.Context(), job), backfill.EndNoOutput, "return one")
			job = r.enqueue(sumArgs{}) // of a task whose history is kept by now
			answer := r.await(r.Context(), job)
			run(r.T, r.db, "delete from graphile_worker._private_jobs")
			r.ends(answer, backfill.EndUnrecorded)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newAwaitRig(t))
		})
	}
}

// X134: what there is nothing of has five answers.
func TestAwaitNothing(t *testing.T) {
	t.Parallel()
	r := newAwaitRig(t)
	job := r.enqueue(sumArgs{A: 1})
	r.ends(r.await(t.Context(), &backfill.Job{ID: job.ID + 1, Task: "add"}), backfill.EndUnknown, "never was a job")

	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := r.await(short, job)()
	pending, ok := errors.AsType[*backfill.PendingError](err)
	if !ok || pending.State != backfill.JobDue || !errors.Is(err, context.DeadlineExceeded) || pending.JobID != job.ID {
		t.Errorf("waiting: %v", err)
	}

	over, end := context.WithCancel(t.Context())
	end()
	_, err = r.await(over, job)()
	if pending, ok := errors.AsType[*backfill.PendingError](err); !ok || pending.Trouble == nil && pending.State != backfill.JobDue || !errors.Is(err, context.Canceled) {
		t.Errorf("without time: %v", err)
	}

	run(t, r.db, "delete from graphile_worker._private_jobs") // before any worker has kept a history
	r.ends(r.await(t.Context(), job), backfill.EndNoHistory, "set history=")

	r.keeps()
	r.ends(r.await(t.Context(), job), backfill.EndUnrecorded)
	old := *job
	old.CreatedAt = time.Now().Add(-25 * time.Hour)
	r.ends(r.await(t.Context(), &old), backfill.EndExpired)

	// In a transaction that is open, and commits, or does not.
	for _, commits := range []bool{true, false} {
		tx, err := r.db.Pool().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		inTx := enqueue(t, r.client.WithTx(tx), taskAdd, sumArgs{A: 7})
		short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err = r.await(short, inTx)()
		cancel()
		if pending, ok := errors.AsType[*backfill.PendingError](err); !ok || pending.State != "" {
			t.Errorf("not committed: %v", err)
		}
		dbtest.Mentions(t, err, "a transaction is open")
		answer := r.await(t.Context(), inTx)
		if !commits {
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.ends(answer, backfill.EndUnrecorded, "rolled back")
			continue
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		runOnce(t, r.client, r.registry)
		r.total(answer, 7)
	}
}

// Tasks with transactions return results, too: they commit with the rest.
func TestAwaitTransactional(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := sqlDrivers["pgx"].pool(t, db.URL)
	client := newClient(t, db, backfill.WithSQLDB(pool))
	for name, fn := range map[string]backfill.ResultHandler[sumArgs]{
		"pgx": backfill.Returning[sumArgs, sum](func(ctx context.Context, tx pgx.Tx, args sumArgs) (s sum, err error) {
			err = tx.QueryRow(ctx, "select $1::bigint + $2::bigint", args.A, args.B).Scan(&s.Total)
			return s, err
		}),
		"database/sql": backfill.Returning[sumArgs, sum](func(ctx context.Context, tx *sql.Tx, args sumArgs) (s sum, err error) {
			err = tx.QueryRowContext(ctx, "select $1::bigint + $2::bigint", args.A, args.B).Scan(&s.Total)
			return s, err
		}),
	} {
		job := enqueue(t, client, taskAdd, sumArgs{A: 20, B: 22})
		runOnce(t, client, backfill.NewRegistry(backfill.Handle(taskAdd, fn)))
		if got, err := backfill.Await[sum](t.Context(), client, taskAdd, job); err != nil || got.Total != 42 {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

// What cannot be awaited is said at once.
func TestAwaitRefuses(t *testing.T) {
	t.Parallel()
	r := newAwaitRig(t)
	job := r.enqueue(sumArgs{A: 1})
	tx, err := r.db.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	other := &backfill.Task[sumArgs]{Name: "other", Aliases: []string{"others"}}
	refuse := func(kind error, part string, e backfill.Enqueuer, task *backfill.Task[sumArgs], job *backfill.Job) {
		t.Helper()
		_, err := backfill.Await[sum](t.Context(), e, task, job)
		if !errors.Is(err, kind) {
			t.Errorf("got %v, want %v", err, kind)
		}
		wantError(t, err, part)
	}
	refuse(backfill.ErrInvalidRequest, "committed", r.client.WithTx(tx), taskAdd, job)
	refuse(backfill.ErrInvalidRequest, `of task "add"`, r.client, other, job)
	refuse(backfill.ErrInvalidRequest, "no job", r.client, taskAdd, nil)
	refuse(backfill.ErrInvalidRequest, "no job", r.client, taskAdd, &backfill.Job{Task: "add"})
	refuse(backfill.ErrInvalidRequest, "is nil", r.client, nil, job)
	refuse(backfill.ErrNoClient, "no client", nil, taskAdd, job)
	refuse(backfill.ErrNoClient, "no client", backfill.FromContext(t.Context()), taskAdd, job)
	refuse(backfill.ErrNoClient, "no client", new(backfill.Client), taskAdd, job)
	refuse(backfill.ErrInvalidRequest, "cannot wait", struct{ backfill.Enqueuer }{r.client}, taskAdd, job)

	// Nothing is kept of results without a history.
	bare := &backfill.Task[sumArgs]{Name: "bare"}
	registry := backfill.NewRegistry(backfill.Handle(bare, backfill.Returning[sumArgs, *sum](r.add)))
	_, err = r.client.NewWorker(registry)
	wantError(t, err, `task "bare": its handler returns a result`)
	if _, err = r.client.NewWorker(registry, backfill.WithHistory(time.Hour)); err != nil {
		t.Error(err)
	}
	_, err = r.client.NewWorker(backfill.NewRegistry(backfill.Handle(taskAdd, backfill.Returning[sumArgs, *sum]((func(context.Context, sumArgs) (*sum, error))(nil)))))
	wantError(t, err, "its handler is nil")

	// An output of another type is told without its value.
	runOnce(t, r.client, backfill.NewRegistry(backfill.Handle(taskAdd, func(ctx context.Context, _ sumArgs) error {
		return backfill.Output(ctx, map[string]string{"total": secret})
	})))
	_, err = backfill.Await[sum](t.Context(), r.client, taskAdd, job)
	wantError(t, err, "its output is not a backfill_test.sum")
	wantSecret(t, secret, fmt.Sprintf("%v %+v", err, err))
}

// A role that may not read what it takes, or sees a part of it, is told so: what is missing is not
// taken for absent.
func TestAwaitRights(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	owner := newClient(t, db)
	job := enqueue(t, owner, taskAdd, sumArgs{A: 1})
	admin := dbtest.Connect(t, db.URL)
	role := dbtest.NewRole(t, admin)
	as := func() *backfill.Client {
		t.Helper()
		pool := poolOf(t, db.URL, func(config *pgxpool.Config) {
			config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, "set role "+role)
				return err
			}
		})
		client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet), backfill.WithMigrations(backfill.MigrateVerify))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	for _, grant := range []string{"usage on schema graphile_worker", "select on graphile_worker.migrations, graphile_worker.backfill_migrations", "execute on function graphile_worker.backfill_enqueue"} {
		dbtest.Run(t, admin, "grant "+grant+" to "+role)
	}
	client := as()
	_, err := backfill.Await[sum](t.Context(), client, taskAdd, job)
	wantError(t, err, "permission denied")
	dbtest.Run(t, admin, "grant select on all tables in schema graphile_worker to "+role)
	_, err = backfill.Await[sum](t.Context(), client, taskAdd, job)
	wantError(t, err, "row level security hides")
}

// A database that goes away and comes back, and callers that go away, leave nothing behind.
func TestAwaitThroughTrouble(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	owner := newClient(t, db)
	balancer, through := dbtest.NewBalancer(t, db.URL)
	client, err := backfill.NewClient(t.Context(), poolOf(t, through, func(*pgxpool.Config) {}), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	job := enqueue(t, client, taskAdd, sumArgs{A: 1, B: 1})
	before := runtime.NumGoroutine()

	var callers sync.WaitGroup
	for range 500 {
		callers.Go(func() {
			if got, err := backfill.Await[sum](t.Context(), client, taskAdd, job); err != nil || got.Total != 2 {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	<-time.After(100 * time.Millisecond)
	balancer.Swallow(true)
	balancer.Cut()
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = backfill.Await[sum](short, client, taskAdd, job)
	if pending, ok := errors.AsType[*backfill.PendingError](err); !ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cut off: %v, %+v", err, pending)
	}
	runOnce(t, owner, backfill.NewRegistry(backfill.Handle(taskAdd, backfill.Returning[sumArgs, sum](func(_ context.Context, args sumArgs) (sum, error) {
		return sum{args.A + args.B}, nil
	}))))
	balancer.Swallow(false)
	balancer.Cut()
	callers.Wait()
	dbtest.UntilWithin(t, hang, func() bool { return runtime.NumGoroutine() <= before+20 }) // the pool has some, and tests beside it

	waiting := enqueue(t, client, taskAdd, sumArgs{})
	answer := make(chan error, 1)
	go func() {
		_, err := backfill.Await[sum](context.Background(), client, taskAdd, waiting)
		answer <- err
	}()
	<-time.After(50 * time.Millisecond)
	client.Close()
	if err := receive(t, "the client's end", answer); !errors.Is(err, backfill.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
