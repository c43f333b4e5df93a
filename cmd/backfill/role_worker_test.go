package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

func TestWorkerRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := newLogin(t, db)
	stdout, _ := command(t, 0, "migrate", "--database-url", db.URL, "--worker-role", role.name)
	says(t, stdout, "was given its rights", "create policy")
	stdout, _ = command(t, 0, "migrate", "--verify", "--database-url", db.URL, "--worker-role", role.name)
	says(t, stdout, "has its rights")
	client := open(t, role)

	done := map[int]int{} // jobs run one at a time
	var task *backfill.Task[noteArgs]
	task, registry := newTask(t, "note", func(ctx context.Context, args noteArgs) error {
		done[args.N]++
		switch args.N {
		case 1:
			return errors.Join(
				enqueue(ctx, backfill.FromContext(ctx), task, noteArgs{5}),
				enqueue(ctx, backfill.FromContext(ctx), task, noteArgs{6}, backfill.Key("six"), backfill.Queue("other")),
			)
		case 2:
			return backfill.RetryIn(time.Hour, errors.New("broken"))
		case 3:
			return backfill.Permanent(errors.New("broken"))
		case 4:
			return backfill.Snooze(time.Hour)
		default:
			return nil
		}
	})
	admin, err := backfill.Open(t.Context(), db.URL, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if _, err := backfill.EnqueueMany(t.Context(), admin, task, []noteArgs{{1}, {2}, {3}, {4}}, backfill.Queue("q")); err != nil {
		t.Fatal(err)
	}
	if _, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client), backfill.WithConcurrency(1)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]int{1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}, done); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
	left := list(t, connectTo(t, db.URL), "select payload || ' ' || attempts || ' ' || coalesce(last_error, '-') from graphile_worker._private_jobs order by id")
	if want := []string{`{"n":2} 1 broken`, `{"n":4} 0 -`}; !slices.Equal(left, want) {
		t.Errorf("rows that are left = %q, want %q", left, want)
	}
	letters := list(t, connectTo(t, db.URL), "select payload || ' ' || failure_reason || ' ' || last_error from graphile_worker.backfill_dlq")
	if want := []string{`{"n":3} permanent broken`}; !slices.Equal(letters, want) {
		t.Errorf("dead letters = %q, want %q", letters, want)
	}
	execute(t, connectTo(t, db.URL), "select graphile_worker.add_job('unused', queue_name := 'unused', job_key := 'k'), graphile_worker.remove_job('k')")
	for what, err := range administer(t, client) {
		if strings.HasPrefix(what, "names") {
			says(t, what+": "+fmt.Sprint(err), "may not delete ", "only the owner", "42501")
		} else if err != nil && !errors.Is(err, backfill.ErrNotLocked) {
			t.Errorf("%s: %v", what, err)
		}
	}
	cannotAdminister(t, db, role)
}

func enqueue(ctx context.Context, e backfill.Enqueuer, task *backfill.Task[noteArgs], args noteArgs, opts ...backfill.EnqueueOption) error {
	_, err := backfill.Enqueue(ctx, e, task, args, opts...)
	return err
}

// cannotAdminister tries what a worker does not do.
func cannotAdminister(t *testing.T, db *pgtest.Database, role login) {
	t.Helper()
	admin, conn := connectTo(t, db.URL), connectTo(t, role.url)
	execute(t, admin, "create schema secret; create table secret.plans (); revoke all on schema public from public")
	refused(t, conn, "select from secret.plans", "create table graphile_worker.x ()", "create schema x",
		"insert into graphile_worker.migrations (id) values (99)", "delete from graphile_worker.backfill_migrations",
		"delete from graphile_worker._private_tasks", "delete from graphile_worker._private_job_queues",
		"delete from graphile_worker._private_known_crontabs", "update graphile_worker._private_tasks set identifier = 'x'",
		"select from graphile_worker.jobs")
	for _, table := range []string{"_private_jobs", "_private_job_queues", "_private_tasks", "_private_known_crontabs", "backfill_workers"} {
		refused(t, conn, "truncate graphile_worker."+table, "drop table graphile_worker."+table,
			"alter table graphile_worker."+table+" disable row level security", "alter table graphile_worker."+table+" add x int")
	}
	refused(t, conn, "select * from graphile_worker.backfill_enqueue('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')")

	// The policies are for this role alone.
	other := newLogin(t, db)
	execute(t, admin, strings.ReplaceAll("grant usage on schema graphile_worker to $; grant select on graphile_worker._private_jobs to $", "$",
		pgx.Identifier{other.name}.Sanitize()))
	if rows := list(t, connectTo(t, other.url), "select id::text from graphile_worker._private_jobs"); len(rows) != 0 {
		t.Errorf("another role sees jobs %q", rows)
	}
}

// A role that was made before there was the table of crashes, or that of dead letters, cannot work: the
// worker says at its start what to run, and not at its first heartbeat, when it has claimed jobs.
func TestWorkerRoleOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"backfill_crashes", "backfill_dlq"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			startsWithout(t, table)
		})
	}
}

func startsWithout(t *testing.T, table string) {
	t.Helper()
	db := pgtest.New(t)
	role := newLogin(t, db)
	command(t, 0, "migrate", "--database-url", db.URL, "--worker-role", role.name)
	execute(t, connectTo(t, db.URL), "revoke all on graphile_worker."+table+" from "+pgx.Identifier{role.name}.Sanitize())
	pool, err := pgxpool.New(t.Context(), role.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := pg.Open(t.Context(), pg.SettingsOf(pool, "graphile_worker"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	err = store.Register(t.Context(), worker.Registration{ID: wire.NewWorkerID(), Tasks: []string{"a"}})
	if err == nil || !strings.Contains(err.Error(), "--worker-role") {
		t.Errorf("register: %v", err)
	}
}

// Every call that the engine has for its store.
func TestWorkerRoleStore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := newLogin(t, db)
	command(t, 0, "migrate", "--database-url", db.URL, "--worker-role", role.name)
	execute(t, connectTo(t, db.URL), "select graphile_worker.add_job('a', queue_name := 'q' || i % 2) from generate_series(1, 8) as i")
	pool, err := pgxpool.New(t.Context(), role.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := pg.Open(t.Context(), pg.SettingsOf(pool, "graphile_worker"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	ctx, id := t.Context(), wire.NewWorkerID()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("register", store.Register(ctx, worker.Registration{ID: id, Tasks: []string{"a", "b"}}))
	var number uint64
	claim := func() wire.Lease {
		t.Helper()
		number++
		claimed, err := store.Claim(ctx, worker.ClaimRequest{WorkerID: id, Number: number, Batch: 1, Serial: 1})
		check("claim", err)
		if len(claimed.Jobs) != 1 {
			t.Fatalf("claimed %d jobs", len(claimed.Jobs))
		}
		return claimed.Jobs[0].Lease
	}
	fates, err := store.Complete(ctx, []wire.Lease{claim()})
	check("complete", err)
	if fates[0].Kind != worker.FateRecorded {
		t.Errorf("complete: %+v", fates)
	}
	_, err = store.Fail(ctx, []worker.Ended{{Lease: claim(), Outcome: worker.Outcome{Kind: worker.OutcomeFailed, Text: "broken", Delay: time.Hour}}})
	check("fail", err)
	fates, err = store.Fail(ctx, []worker.Ended{{
		Lease: claim(), Outcome: worker.Outcome{Kind: worker.OutcomeExhausted, Text: "broken", Reason: worker.ReasonPermanent},
	}})
	check("make a dead letter", err)
	if fates[0].Kind != worker.FateExhausted {
		t.Errorf("make a dead letter: %+v", fates)
	}
	renewed, err := store.Renew(ctx, []wire.Lease{claim()})
	check("renew", err)
	if renewed[0].Kind != worker.FateRecorded {
		t.Errorf("renewed: %+v", renewed)
	}
	_, err = store.Release(ctx, []worker.Ended{{Lease: claim(), Outcome: worker.Outcome{Kind: worker.OutcomeReturned}}})
	check("release", err)
	fates, err = store.Complete(ctx, []wire.Lease{{ID: 99, QueueID: 1, Token: "pool-x.1.1"}})
	check("complete what is lost", err)
	if fates[0].Kind != worker.FateLost {
		t.Errorf("complete what is lost: %+v", fates)
	}
	_, err = store.Reclaim(ctx, id, nil)
	check("reclaim", err)
	_, err = store.Survey(ctx)
	check("survey", err)
	swept, err := store.Sweep(ctx, id, false)
	check("sweep", err)
	if !swept.Done {
		t.Errorf("swept %+v", swept)
	}
	expired, err := store.Expire(ctx, time.Nanosecond)
	check("expire", err)
	if expired.Letters != 1 {
		t.Errorf("expired %+v, want the dead letter", expired)
	}
	_, err = store.KnownCrontabs(ctx, []string{"nightly"}, time.Now())
	check("known crontabs", err)
	scheduled, err := store.Tick(ctx, time.Now(), []string{"nightly"}, []wire.Spec{{Task: "a", Payload: []byte("{}"), MaxAttempts: 25}})
	check("tick", err)
	if scheduled != 1 {
		t.Errorf("tick: scheduled %d jobs", scheduled)
	}
	check("ping", store.Ping(ctx, "x"))
	check("check schema", store.CheckSchema(ctx))
	check("retire", store.Retire(ctx, id, true))
}

// The statements of --print give the same rights, and neither way does anything when it is run
// again.
func TestPrintedRights(t *testing.T) {
	t.Parallel()
	for flag, schema := range map[string]string{"--worker-role": "it's \"1\";\n$fn$", "--enqueue-role": "graphile_worker"} {
		for name, runScript := range runners {
			t.Run(flag+" "+name, func(t *testing.T) {
				t.Parallel()
				theirs, ours := pgtest.Empty(t), pgtest.Empty(t)
				role := newLogin(t, theirs)
				cleanUpAfter(t, ours, role)
				arguments := []string{"migrate", "--schema", schema, flag, role.name, "--database-url"}
				command(t, 0, append(arguments, theirs.URL)...)
				want := catalog(t, connectTo(t, theirs.URL), schema)
				printed, _ := command(t, 0, "migrate", "--print", "--schema", schema, flag, role.name)
				runScript(t, ours.URL, printed)
				compare := func() {
					t.Helper()
					if diff := cmp.Diff(want, catalog(t, connectTo(t, ours.URL), schema)); diff != "" {
						t.Errorf("catalog (-migrate +print):\n%s", diff)
					}
				}
				compare()
				stdout, _ := command(t, 0, append(arguments, ours.URL)...)
				says(t, stdout, "has its rights")
				rights, _ := command(t, 0, append([]string{"migrate", "--print"}, append(arguments[1:], ours.URL)...)...)
				runScript(t, ours.URL, rights)
				compare()
			})
		}
	}
}

// All that is wrong with roles is said at once, and before anything is installed.
func TestRolesAreChecked(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	role, other := newLogin(t, db), newLogin(t, db)
	_, stderr := command(t, 2, "migrate", "--database-url", "postgres://127.0.0.1:1/nowhere", "--schema", "pg_x", "--enqueue-role", "none", "--worker-role", "public")
	says(t, stderr, `"pg_x"`, `"none"`, `"public"`)
	for _, mode := range []string{"--breaking", "--verify"} {
		_, stderr = command(t, 1, "migrate", mode, "--database-url", db.URL, "--enqueue-role", "nope", "--worker-role", "nor this")
		says(t, stderr, `there is no role "nope"`, `there is no role "nor this"`)
	}
	if got := list(t, connectTo(t, db.URL), "select nspname::text from pg_namespace where nspname = 'graphile_worker'"); len(got) > 0 {
		t.Error("the schema was installed")
	}
	command(t, 0, "migrate", "--database-url", db.URL)
	_, stderr = command(t, 1, "migrate", "--print", "--database-url", db.URL, "--worker-role", "nope")
	says(t, stderr, `there is no role "nope"`)
	_, stderr = command(t, 1, "migrate", "--verify", "--database-url", db.URL, "--enqueue-role", role.name, "--worker-role", other.name)
	says(t, stderr, fmt.Sprintf("%q lacks rights", role.name), fmt.Sprintf("%q lacks rights", other.name))
}

func TestRightsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role, other := newLogin(t, db), newLogin(t, db)
	for _, flag := range []string{"--enqueue-role", "--worker-role"} {
		_, stderr := command(t, 1, "migrate", "--database-url", db.URL, flag, "no, such")
		says(t, stderr, `there is no role "no, such"`, `CREATE ROLE "no, such"`)
		for _, everybody := range []string{"public", "none", "", strings.Repeat("x", 64)} {
			_, stderr = command(t, 2, "migrate", "--database-url", db.URL, flag, everybody)
			says(t, stderr, "role name")
			_, stderr = command(t, 2, "migrate", "--print", flag, everybody)
			says(t, stderr, "role name")
		}
		_, stderr = command(t, 1, "migrate", "--verify", "--database-url", db.URL, flag, role.name)
		says(t, stderr, "lacks rights", "without --verify", "grant ")
		command(t, 0, "migrate", "--database-url", db.URL, flag, role.name)
		// A role that has the rights cannot pass them on.
		_, stderr = command(t, 1, "migrate", "--database-url", role.url, flag, other.name)
		says(t, stderr, "may not give rights", "as the owner of the schema")
	}
	// A role that cannot migrate is told who can.
	execute(t, connectTo(t, db.URL), "drop function graphile_worker.backfill_enqueue; delete from graphile_worker.backfill_migrations where id >= 3")
	_, err := backfill.Open(t.Context(), role.url)
	says(t, fmt.Sprint(err), "migrate once as role", "run: backfill migrate")
	_, stderr := command(t, 1, "migrate", "--verify", "--database-url", role.url)
	says(t, stderr, "own/0003_enqueue.sql", "backfill migrate")
	command(t, 0, "migrate", "--database-url", db.URL)
	open(t, role)
}
