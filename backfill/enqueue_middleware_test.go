package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// stamp returns middleware that adds a flag to every job.
func stamp(flag string) backfill.EnqueueMiddleware {
	return func(next backfill.EnqueueFunc) backfill.EnqueueFunc {
		return func(ctx context.Context, requests []backfill.Request) ([]*backfill.Job, error) {
			for i := range requests {
				requests[i].Flags = append(slices.Clip(requests[i].Flags), flag)
			}
			return next(ctx, requests)
		}
	}
}

// enqueueWays are all ways to enqueue through a client, each of which enqueues requests.
func enqueueWays(t *testing.T, db *pgtest.Database, client *backfill.Client) map[string]func(...backfill.Request) error {
	t.Helper()
	ctx := t.Context()
	inTx := func(bind func(pgx.Tx) backfill.Enqueuer, requests []backfill.Request) error {
		return pgx.BeginFunc(ctx, db.Pool(), func(tx pgx.Tx) error {
			_, err := bind(tx).Enqueue(ctx, requests...)
			return err
		})
	}
	return map[string]func(...backfill.Request) error{
		"direct": func(r ...backfill.Request) error {
			_, err := client.Enqueue(ctx, r...)
			return err
		},
		"WithTx":           func(r ...backfill.Request) error { return inTx(client.WithTx, r) },
		"WithTx of WithTx": func(r ...backfill.Request) error { return inTx(client.WithSQLTx(nil).WithTx, r) },
		"WithSQLTx": func(r ...backfill.Request) error {
			pool := stdlib.OpenDBFromPool(db.Pool())
			defer pool.Close()
			tx, err := pool.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Commit() }()
			_, err = client.WithSQLTx(tx).Enqueue(ctx, r...)
			return err
		},
		"InTx": func(r ...backfill.Request) error {
			return backfill.InTx(ctx, client, func(ctx context.Context, _ pgx.Tx) error {
				_, err := backfill.FromContext(ctx).Enqueue(ctx, r...)
				return err
			})
		},
		"handler": func(r ...backfill.Request) error {
			var inHandler error
			task, registry := taskOf("parent", func(ctx context.Context, _ backfill.NoArgs) error {
				_, inHandler = backfill.FromContext(ctx).Enqueue(ctx, r...)
				return nil
			})
			enqueue(t, client, task, backfill.NoArgs{})
			runOnce(t, client, registry)
			return inHandler
		},
	}
}

func TestEnqueueMiddlewareOnEveryWay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db, backfill.WithEnqueueMiddleware(stamp("outer"), stamp("inner")), backfill.WithEnqueueMiddleware(stamp("last")))
	for way, enqueue := range enqueueWays(t, db, client) {
		request := backfill.Request{Task: "child", Args: raw(fmt.Sprintf("%q", way)), Flags: []string{"own"}}
		requests := []backfill.Request{request}
		if err := enqueue(requests...); err != nil {
			t.Errorf("%s: %v", way, err)
			continue
		}
		flags := get[string](t, db.Pool(), `select string_agg(flag, ' ' order by flag) from graphile_worker._private_jobs j,
			lateral jsonb_object_keys(j.flags) flag where j.payload #>> '{}' = $1`, way)
		if flags != "inner last outer own" {
			t.Errorf("%s: flags %s", way, flags)
		}
		if diff := cmp.Diff([]string{"own"}, requests[0].Flags); diff != "" {
			t.Errorf("%s: the caller's request was changed:\n%s", way, diff)
		}
	}
}

// The first middleware is the outermost, and sees what the others return.
func TestEnqueueMiddlewareOrder(t *testing.T) {
	t.Parallel()
	var said []string
	say := func(name string) backfill.EnqueueMiddleware {
		return func(next backfill.EnqueueFunc) backfill.EnqueueFunc {
			return func(ctx context.Context, requests []backfill.Request) ([]*backfill.Job, error) {
				said = append(said, name)
				jobs, err := next(ctx, requests)
				said = append(said, fmt.Sprint(name, " ", len(jobs), " ", err))
				return jobs, err
			}
		}
	}
	client := newClient(t, pgtest.New(t), backfill.WithEnqueueMiddleware(say("a"), say("b")))
	if _, err := client.Enqueue(t.Context(), backfill.Request{Task: "t"}, backfill.Request{Task: "t"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b", "b 2 <nil>", "a 2 <nil>"}, said); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if _, err := client.Enqueue(t.Context()); err != nil || len(said) != 4 {
		t.Errorf("no requests: %v, calls %v", err, said)
	}
}

// What a middleware does wrong is an error, which says whether jobs were enqueued.
func TestEnqueueMiddlewareMisbehaves(t *testing.T) {
	t.Parallel()
	type call = func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error)
	reason := errors.New("no more")
	tests := map[string]struct {
		do      call
		want    string
		rows    int
		unknown bool
	}{
		"refuses": {func(backfill.EnqueueFunc, context.Context, []backfill.Request) ([]*backfill.Job, error) {
			return nil, reason
		}, "no more", 0, false},
		"fails afterwards": {func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			_, _ = next(ctx, r)
			return nil, reason
		}, "jobs were enqueued, or may have been, before this error: no more", 1, true},
		"panics": {func(backfill.EnqueueFunc, context.Context, []backfill.Request) ([]*backfill.Job, error) {
			panic(reason)
		}, "enqueue middleware: panic: no more", 0, false},
		"panics afterwards": {func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			_, _ = next(ctx, r)
			panic(reason)
		}, "panic: no more", 1, true},
		"drops a job": {func(backfill.EnqueueFunc, context.Context, []backfill.Request) ([]*backfill.Job, error) {
			return nil, nil
		}, "it returned 0 jobs for 1 requests", 0, false},
		"drops the result": {func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			_, err := next(ctx, r)
			return nil, err
		}, "it returned 0 jobs for 1 requests", 1, true},
		"makes up a job": {func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			return make([]*backfill.Job, len(r)), nil
		}, "it returned a job that is nil", 0, false},
		"drops a result": {func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			_, err := next(ctx, r)
			return []*backfill.Job{nil}, err
		}, "it returned a job that is nil", 1, true},
		"is refused the second time": {func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			_, _ = next(ctx, r)
			r[0].Task = ""
			return next(ctx, r)
		}, "task name is empty", 1, true},
		"makes the request invalid": {func(next backfill.EnqueueFunc, ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			r[0].Args = raw("{")
			return next(ctx, r)
		}, "args are not valid JSON", 0, false},
		"loses the context": {func(next backfill.EnqueueFunc, _ context.Context, r []backfill.Request) ([]*backfill.Job, error) {
			return next(nil, r)
		}, "the context is nil", 0, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db, backfill.WithEnqueueMiddleware(func(next backfill.EnqueueFunc) backfill.EnqueueFunc {
				return func(ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) { return test.do(next, ctx, r) }
			}))
			jobs, err := client.Enqueue(t.Context(), backfill.Request{Task: "t"})
			wantError(t, err, test.want)
			if jobs != nil || errors.Is(err, backfill.ErrOutcomeUnknown) != test.unknown {
				t.Errorf("jobs %v, unknown %v", jobs, !test.unknown)
			}
			if test.unknown && errors.Is(err, backfill.ErrInvalidRequest) {
				t.Errorf("%v says that nothing was sent", err)
			}
			if strings.Contains(test.want, "no more") && !errors.Is(err, reason) {
				t.Errorf("%v hides the middleware's own error", err)
			}
			wantJobs(t, db, test.rows)
		})
	}
}

// An unknown outcome stays one, whatever the middleware makes of it: here the context ends while a
// trigger holds the commit up.
func TestEnqueueMiddlewareCannotHideAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if _, err := db.Pool().Exec(t.Context(), `create function wait() returns trigger language plpgsql as $$ begin perform pg_sleep(60); return null; end $$;
		create constraint trigger wait after insert on graphile_worker._private_jobs initially deferred for each row execute function wait()`); err != nil {
		t.Fatal(err)
	}
	const sleeping = "from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
	for name, hide := range map[string]func(backfill.EnqueueFunc, error) error{
		"wrapped with %v": func(_ backfill.EnqueueFunc, err error) error { return fmt.Errorf("no: %v", err) }, //nolint:errorlint // the mistake
		"tried again": func(next backfill.EnqueueFunc, _ error) error {
			_, err := next(t.Context(), make([]backfill.Request, 1))
			return err
		},
		"as it is": func(_ backfill.EnqueueFunc, err error) error { return fmt.Errorf("yes: %w", err) },
	} {
		client := newClient(t, db, backfill.WithEnqueueMiddleware(func(next backfill.EnqueueFunc) backfill.EnqueueFunc {
			return func(ctx context.Context, r []backfill.Request) ([]*backfill.Job, error) {
				_, err := next(ctx, r)
				return nil, hide(next, err)
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := client.Enqueue(ctx, backfill.Request{Task: "t"})
			ended <- err
		}()
		until(t, "the commit to wait", func() bool { return get[int](t, db.Pool(), "select count(*) "+sleeping) > 0 })
		cancel()
		err := receive(t, "the enqueue", ended)
		until(t, "the commit to end", func() bool { return get[int](t, db.Pool(), "select count(pg_terminate_backend(pid)) "+sleeping) == 0 })
		if !errors.Is(err, backfill.ErrOutcomeUnknown) || errors.Is(err, backfill.ErrInvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A middleware that can never work is an error of the client, with all others.
func TestEnqueueMiddlewareProblems(t *testing.T) {
	t.Parallel()
	_, err := backfill.NewClient(t.Context(), pgtest.New(t).Pool(), backfill.WithEnqueueMiddleware(
		stamp("fine"), nil, func(backfill.EnqueueFunc) backfill.EnqueueFunc { return nil },
		func(backfill.EnqueueFunc) backfill.EnqueueFunc { panic("at once") },
	))
	for _, want := range []string{"argument 2 is nil", "argument 3: it returned nil", "argument 4: wrap an enqueue: panic: at once"} {
		wantError(t, err, "WithEnqueueMiddleware: "+want)
	}
}

// Every way to enqueue tells the same kinds of error apart.
func TestKindsOfEnqueueErrors(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	all := []error{
		backfill.ErrInvalidRequest, backfill.ErrOutcomeUnknown, backfill.ErrRejected, backfill.ErrNoClient, backfill.ErrClosed,
	}
	check := func(what string, err, want error) {
		t.Helper()
		for _, kind := range all {
			if wanted := kind == want; errors.Is(err, kind) != wanted { //nolint:errorlint // the variable itself
				t.Errorf("%s: errors.Is(%v, %v) = %v", what, err, kind, !wanted)
			}
		}
	}
	if _, err := db.Pool().Exec(t.Context(), `create function refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$;
		create trigger refuse before insert on graphile_worker._private_jobs for each row when (new.priority = 7) execute function refuse()`); err != nil {
		t.Fatal(err)
	}
	ways := enqueueWays(t, db, client)
	for way, enqueue := range ways {
		check(way+", invalid", enqueue(backfill.Request{Task: "t"}, backfill.Request{}), backfill.ErrInvalidRequest)
		check(way+", refused", enqueue(backfill.Request{Task: "t", Priority: 7}), backfill.ErrRejected)
	}
	pq := sqlDrivers["pq"].begin(t, db, client)
	_, err := pq.enqueuer.Enqueue(t.Context(), backfill.Request{Task: "t", Priority: 7})
	check("lib/pq, refused", err, backfill.ErrRejected)
	_ = pq.rollback()
	task := &backfill.Task[chan int]{Name: "t"}
	_, err = backfill.Enqueue(t.Context(), client, task, make(chan int))
	check("args that cannot be encoded", err, backfill.ErrInvalidRequest)
	_, err = backfill.EnqueueMany(t.Context(), client, &backfill.Task[int]{Name: "t"}, []int{1}, backfill.Key("k"))
	check("one key for many", err, backfill.ErrInvalidRequest)
	check("Validate", backfill.Request{}.Validate(), backfill.ErrInvalidRequest)
	for _, e := range []backfill.Enqueuer{client.WithTx(nil), client.WithSQLTx(nil)} {
		_, err = e.Enqueue(t.Context(), backfill.Request{Task: "t"})
		check("no transaction", err, backfill.ErrInvalidRequest)
	}
	check("InTx without a function", backfill.InTx(t.Context(), client, nil), backfill.ErrInvalidRequest)
	check("InTx without a client", backfill.InTx(t.Context(), nil, nil), backfill.ErrNoClient)
	for _, e := range []backfill.Enqueuer{
		nil, (*backfill.Client)(nil), &backfill.Client{}, (*backfill.Client)(nil).WithTx(nil), backfill.FromContext(t.Context()),
	} {
		_, err = backfill.Enqueue(t.Context(), e, &backfill.Task[int]{Name: "t"}, 1)
		check(fmt.Sprintf("%T", e), err, backfill.ErrNoClient)
	}
	check("a commit that is refused", backfill.InTx(t.Context(), client, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "create temp table once (n int unique deferrable initially deferred); insert into once values (1), (1)")
		return err
	}), backfill.ErrRejected)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = client.Enqueue(ended, backfill.Request{Task: "t"})
	check("a context that has ended", err, nil)
	bound := client.WithTx(nil)
	client.Close()
	for way, enqueue := range ways {
		if way != "handler" { // its worker does not start
			check(way+", closed", enqueue(backfill.Request{Task: "t"}), backfill.ErrClosed)
		}
	}
	_, err = bound.Enqueue(t.Context(), backfill.Request{Task: "t"})
	check("bound, closed", err, backfill.ErrClosed)
	_, err = client.NewWorker(nil)
	check("NewWorker, closed", err, backfill.ErrClosed)
}
