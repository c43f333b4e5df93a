package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

var quiet = backfill.WithLogger(slog.New(slog.DiscardHandler))

type noteArgs struct {
	N int `json:"n"`
}

// open returns a client that connects as a role.
func open(t *testing.T, role login, opts ...backfill.ClientOption) *backfill.Client {
	t.Helper()
	client, err := backfill.Open(t.Context(), role.url, append(opts, quiet)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// newTask returns a task and its registry.
func newTask(t *testing.T, name string, handler func(context.Context, noteArgs) error) (*backfill.Task[noteArgs], *backfill.Registry) {
	t.Helper()
	task := &backfill.Task[noteArgs]{Name: name}
	return task, backfill.NewRegistry(backfill.Handle(task, handler))
}

// shellWord is a word as messages write it for a shell.
func shellWord(s string) string { return "'" + s + "'" }

// A role without any right is told what gives it some.
func TestRoleWithoutRights(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := newLogin(t, db)
	for _, mode := range []backfill.MigrateMode{backfill.MigrateAuto, backfill.MigrateVerify} {
		_, err := backfill.Open(t.Context(), role.url, backfill.WithMigrations(mode))
		says(t, fmt.Sprint(err), "backfill migrate --enqueue-role "+shellWord(role.name), "backfill migrate --worker-role "+shellWord(role.name))
	}
	// With rights that are of no use: it can be opened, and then be told more.
	execute(t, connectTo(t, db.URL), strings.ReplaceAll(`grant usage on schema graphile_worker to $;
		grant select, insert, update on all tables in schema graphile_worker to $`, "$", pgx.Identifier{role.name}.Sanitize()))
	client := open(t, role)
	task, registry := newTask(t, "note", func(context.Context, noteArgs) error { return nil })
	_, err := backfill.Enqueue(t.Context(), client, task, noteArgs{})
	says(t, fmt.Sprint(err), "backfill migrate --enqueue-role "+shellWord(role.name))
	_, err = backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
	says(t, fmt.Sprint(err), "backfill migrate --worker-role "+shellWord(role.name))
}

func TestEnqueueRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := newLogin(t, db)
	stdout, _ := command(t, 0, "migrate", "--database-url", db.URL, "--enqueue-role", role.name)
	says(t, stdout, "was given its rights", "execute on function")
	stdout, _ = command(t, 0, "migrate", "--verify", "--database-url", db.URL, "--enqueue-role", role.name)
	says(t, stdout, "has its rights")
	open(t, role, backfill.WithMigrations(backfill.MigrateVerify))
	client := open(t, role)
	admin := connectTo(t, db.URL)
	execute(t, admin, `listen "jobs:insert"`)
	task, registry := newTask(t, "note", func(context.Context, noteArgs) error { return nil })

	job, err := backfill.Enqueue(t.Context(), client, task, noteArgs{1})
	if err != nil || string(job.Args) != `{"n":1}` || job.ID == 0 {
		t.Fatalf("one job: %+v, %v", job, err)
	}
	says(t, hear(t, admin), `"count":1`)
	many, err := backfill.EnqueueMany(t.Context(), client, task, []noteArgs{{2}, {3}}, backfill.Queue("q"))
	if err != nil || len(many) != 2 || many[0].ID >= many[1].ID || many[0].Queue != "q" {
		t.Fatalf("many jobs: %+v, %v", many, err)
	}
	var keyed []backfill.Request // in the order of their queue, not of their keys
	for _, key := range []string{"c", "a", "b"} {
		keyed = append(keyed, task.Request(noteArgs{4}, backfill.Key(key), backfill.Queue("serial")))
	}
	jobs, err := client.Enqueue(t.Context(), append(keyed, task.Request(noteArgs{5}))...)
	if err != nil || !slices.IsSortedFunc(jobs[:3], func(a, b *backfill.Job) int { return int(a.ID - b.ID) }) || jobs[1].Key != "a" {
		t.Fatalf("keyed jobs: %+v, %v", jobs, err)
	}
	enqueueKeyed(t, client, task)
	enqueueInTransactions(t, db, role, client, task)
	cannotTouchJobs(t, role)

	_, err = backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
	says(t, fmt.Sprint(err), "may not work", "backfill migrate --worker-role "+shellWord(role.name))
	for what, err := range administer(t, client) {
		says(t, what+": "+fmt.Sprint(err), "42501", "may not ")
		if !strings.HasPrefix(what, "names") {
			says(t, what+": "+fmt.Sprint(err), "backfill migrate --worker-role "+shellWord(role.name))
		}
	}
}

// administer calls what operators call.
func administer(t *testing.T, client *backfill.Client) map[string]error {
	t.Helper()
	ctx, errs := t.Context(), map[string]error{}
	_, errs["complete"] = client.CompleteJobs(ctx, 999)
	_, errs["fail"] = client.FailJobs(ctx, "", 999)
	_, errs["reschedule"] = client.RescheduleJobs(ctx, backfill.RescheduleChange{Attempts: new(0)}, 999)
	_, errs["remove"] = client.RemoveJob(ctx, "no such key")
	_, errs["force unlock"] = client.ForceUnlock(ctx, "nobody")
	_, errs["unlock worker"] = client.UnlockWorker(ctx, "nobody")
	_, errs["release"] = client.ReleaseStaleLocks(ctx)
	_, errs["failed jobs"] = client.Cleanup(ctx, backfill.CleanupOptions{FailedJobs: true})
	_, errs["names of tasks"] = client.Cleanup(ctx, backfill.CleanupOptions{TaskNames: true})
	_, errs["names of queues"] = client.Cleanup(ctx, backfill.CleanupOptions{QueueNames: true})
	return errs
}

// enqueueKeyed replaces, preserves and deduplicates a job; what others enqueued is not shown.
func enqueueKeyed(t *testing.T, client *backfill.Client, task *backfill.Task[noteArgs]) {
	t.Helper()
	for i, step := range []struct {
		mode     backfill.KeyMode
		revision int
		args     string
	}{
		{backfill.Replace, 0, `{"n":0}`},
		{backfill.PreserveRunAt, 1, `{"n":1}`},
		{backfill.UnsafeDedupe, 2, ``},
		{backfill.Replace, 3, `{"n":3}`},
	} {
		job, err := backfill.Enqueue(t.Context(), client, task, noteArgs{i}, backfill.Key("k"), step.mode)
		if err != nil {
			t.Fatal(err)
		}
		if job.Revision != step.revision || string(job.Args) != step.args || job.Key != "k" {
			t.Errorf("step %d: %+v with args %q, want %+v", i, job, job.Args, step)
		}
	}
}

func enqueueInTransactions(t *testing.T, db *pgtest.Database, role login, client *backfill.Client, task *backfill.Task[noteArgs]) {
	t.Helper()
	admin := connectTo(t, db.URL)
	before := list(t, admin, "select count(*)::text from graphile_worker.jobs")
	conn := connectTo(t, role.url)
	for _, end := range []func(pgx.Tx) error{
		func(tx pgx.Tx) error { return tx.Rollback(t.Context()) }, func(tx pgx.Tx) error { return tx.Commit(t.Context()) },
	} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, enqueueErr := backfill.Enqueue(t.Context(), client.WithTx(tx), task, noteArgs{7})
		if err := errors.Join(enqueueErr, end(tx)); err != nil {
			t.Fatal(err)
		}
	}
	stdlib, err := sql.Open("pgx", role.url)
	if err != nil {
		t.Fatal(err)
	}
	defer stdlib.Close()
	tx, err := stdlib.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, enqueueErr := backfill.Enqueue(t.Context(), client.WithSQLTx(tx), task, noteArgs{8}, backfill.Key("sql"))
	if err := errors.Join(enqueueErr, tx.Commit()); err != nil {
		t.Fatal(err)
	}
	after := list(t, admin, "select (count(*) - 2)::text from graphile_worker.jobs")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("jobs before, and without the two that were committed (-before +after):\n%s", diff)
	}
}

// cannotTouchJobs tries everything else that there is in the schema.
func cannotTouchJobs(t *testing.T, role login) {
	t.Helper()
	conn := connectTo(t, role.url)
	for _, table := range []string{"_private_jobs", "_private_job_queues", "_private_tasks", "_private_known_crontabs", "backfill_workers"} {
		refused(t, conn, "select from graphile_worker."+table, "delete from graphile_worker."+table)
	}
	refused(t, conn, "select from graphile_worker.jobs",
		"update graphile_worker._private_jobs set priority = 1", "insert into graphile_worker._private_tasks (identifier) values ('x')",
		"insert into graphile_worker.migrations (id) values (99)", "delete from graphile_worker.backfill_migrations",
		"select graphile_worker.add_job('x')", "select graphile_worker.remove_job('k')", "select graphile_worker.complete_jobs('{1}')",
		"select graphile_worker.permanently_fail_jobs('{1}')", "select graphile_worker.reschedule_jobs('{1}')",
		"select graphile_worker.force_unlock_workers('{x}')", "create table graphile_worker.x ()", "drop table graphile_worker._private_jobs",
		"create or replace function graphile_worker.backfill_enqueue() returns void language sql as ''",
		"alter function graphile_worker.backfill_enqueue security invoker",
	)
}

// The function does not trust who calls it.
func TestEnqueueFunctionChecks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connectTo(t, db.URL)
	call := func(payload, flags, keys, mode string) error {
		_, err := conn.Exec(t.Context(), `select * from graphile_worker.backfill_enqueue(array['a'], array[''], array[$1], array[null::timestamptz],
			array[0::bigint], array[25::smallint], array[0::smallint], array[$2], $3::text[], array[$4])`, payload, flags, keys, mode)
		return err
	}
	for want, err := range map[string]error{
		"<nil>":                   call("{}", `{"f": true}`, "{k}", "replace"),
		"differ in length":        call("{}", "", "{}", "replace"),
		"flags are not an object": call("{}", "[1]", `{""}`, "replace"),
		"unknown key mode":        call("{}", "", "{k}", "upsert"),
		"type json":               call("{", "", "{k}", "replace"),
	} {
		says(t, fmt.Sprint(err), want)
	}
	// Objects of the caller's do not stand in for PostgreSQL's.
	execute(t, conn, `create schema evil; create function evil.now() returns timestamptz language sql as 'select ''2001-01-01''::timestamptz';
		set search_path = evil, pg_catalog`)
	if err := call("{}", "", `{""}`, "replace"); err != nil {
		t.Fatal(err)
	}
	if got := list(t, conn, "select count(*)::text from graphile_worker._private_jobs where run_at < '2002-01-01'"); got[0] != "0" {
		t.Error("the function uses its caller's search_path")
	}
}
