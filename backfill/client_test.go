package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Open on an empty database makes everything that jobs need, whatever the schema's name.
func TestOpenInstallsAndWorks(t *testing.T) {
	t.Parallel()
	for name, schema := range map[string]string{"default": "graphile_worker", "nasty": `we"ird'-Schéma.$1 ; x`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Empty(t)
			client, err := backfill.Open(t.Context(), db.URL, backfill.WithSchema(schema), backfill.WithLogger(quiet))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ran := make(chan string, 10)
			task, registry := taskOf("send_email", func(ctx context.Context, args mailArgs) error {
				ran <- args.Template + backfill.JobInfo(ctx).Queue + backfill.JobInfo(ctx).Key
				return nil
			})
			w := start(t, client, registry)
			jobs, err := client.Enqueue(t.Context(),
				task.Request(mailArgs{Template: "plain"}),
				task.Request(mailArgs{Template: "in "}, backfill.Queue("q")),
				task.Request(mailArgs{Template: "by "}, backfill.Key("k")))
			if err != nil || len(jobs) != 3 {
				t.Fatalf("%d jobs, error %v", len(jobs), err)
			}
			got := map[string]bool{}
			for range jobs {
				got[receive(t, "a job", ran)] = true
			}
			if !got["plain"] || !got["in q"] || !got["by k"] {
				t.Errorf("ran %v", got)
			}
			w.awaitRecorded(3)
			if left := get[int](t, db.Pool(), "select count(*) from "+pgx.Identifier{schema, "_private_jobs"}.Sanitize()); left != 0 {
				t.Errorf("%d jobs are left", left)
			}
			if err := w.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenClosesItsPool(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client, err := backfill.Open(t.Context(), db.URL, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, db)
	ours := func() int {
		return get[int](t, conn, "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'backfill'")
	}
	enqueue(t, client, mailTask, mailArgs{})
	if ours() == 0 {
		t.Error("no connection is named backfill")
	}
	client.Close()
	until(t, "the end of all connections", func() bool { return ours() == 0 })
	if _, err := backfill.Enqueue(t.Context(), client, mailTask, mailArgs{}); err == nil {
		t.Error("enqueued after Close")
	}
}

func TestClosedClientRunsNoWorker(t *testing.T) {
	t.Parallel()
	client, err := backfill.NewClient(t.Context(), pgtest.New(t).Pool())
	if err != nil {
		t.Fatal(err)
	}
	_, registry := taskOf("send_email", func(context.Context, mailArgs) error { return nil })
	worker, err := client.NewWorker(registry)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	_, err = worker.RunOnce(t.Context())
	wantError(t, err, "the client was closed")
	_, err = backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
	wantError(t, err, "the client was closed")
}

func TestNewClientLeavesThePoolOpen(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, client, mailTask, mailArgs{})
	client.Close()
	client.Close() // twice is fine
	wantJobs(t, db, 1)
}

// The worker, its listener and the notifications connect with the pool's settings, hook included:
// without the hook nothing here has the password.
func TestPoolSettingsAreUsedForEveryConnection(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var password string
	var hooked atomic.Int64
	pool := poolOf(t, db.URL, func(config *pgxpool.Config) {
		password = config.ConnConfig.Password
		config.ConnConfig.Password = "expired"
		config.MaxConns = 1
		config.BeforeConnect = func(_ context.Context, config *pgx.ConnConfig) error {
			hooked.Add(1)
			config.Password = password
			config.RuntimeParams["application_name"] = "hooked"
			return nil
		}
	})
	client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error { return nil })
	w := start(t, client, registry)
	enqueue(t, client, task, mailArgs{})
	w.await("woken", 1, is(backfill.EventWoken))
	w.awaitRecorded(1)
	if hooked.Load() < 3 { // the pool's one, a listener, and one or more to work
		t.Errorf("the hook was called %d times", hooked.Load())
	}
	other := get[int](t, connect(t, db), `select count(*) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid() and application_name <> 'hooked'`)
	if other != 0 {
		t.Errorf("%d connections were made without the hook", other)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
}

// A worker needs no connection of the client's pool, and the client none of the worker's.
func TestWorkerTakesNoConnectionOfThePool(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.WithPoolSize(1))
	client := newClient(t, db)
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error { return nil })
	enqueue(t, client, task, mailArgs{})
	held, err := db.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	if report := runOnce(t, client, registry); report.Completed != 1 {
		t.Errorf("report %+v", report)
	}
}

// Every mode in which pgx can send statements works: poolers need the later ones.
func TestQueryExecModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			separator := "?"
			if strings.Contains(db.URL, "?") {
				separator = "&"
			}
			client, err := backfill.Open(t.Context(), db.URL+separator+"default_query_exec_mode="+mode, backfill.WithLogger(quiet))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			var got []string
			task, registry := taskOf("send_email", func(_ context.Context, args mailArgs) error {
				if got = append(got, args.Template); args.Template == "bad" {
					return errBoom
				}
				return nil
			})
			enqueue(t, client, task, mailArgs{Template: `one"'\`})
			if _, err := client.Enqueue(t.Context(), task.Request(mailArgs{Template: "two"}, backfill.Queue("q"), backfill.Flags("f")),
				task.Request(mailArgs{Template: "three"}, backfill.Key("k"))); err != nil {
				t.Fatal(err)
			}
			enqueue(t, client, task, mailArgs{Template: "bad"}, backfill.MaxAttempts(1))
			report := runOnce(t, client, registry, backfill.WithConcurrency(1))
			if report.Completed != 3 || report.Exhausted != 1 || got[0] != `one"'\` {
				t.Errorf("report %+v of %q", report, got)
			}
		})
	}
}

func TestMigrationModes(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	open := func(mode backfill.MigrateMode) error {
		client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithMigrations(mode), backfill.WithLogger(quiet))
		if err == nil {
			client.Close()
		}
		return err
	}
	wantError(t, open(backfill.MigrateVerify), `schema "graphile_worker": Graphile Worker's tables are not installed: start with WithMigrations(MigrateAuto)`)
	if get[bool](t, db.Pool(), "select exists (select from pg_namespace where nspname = 'graphile_worker')") {
		t.Error("MigrateVerify made the schema")
	}
	for _, mode := range []backfill.MigrateMode{backfill.MigrateAuto, backfill.MigrateVerify, backfill.MigrateBreaking} {
		if err := open(mode); err != nil {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
}

// A schema that is too new is an error to branch on.
func TestOpenBehindABreakingMigration(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec(t, db.Pool(), "insert into graphile_worker.migrations (id, breaking) values (21, true)")
	for _, mode := range []backfill.MigrateMode{backfill.MigrateAuto, backfill.MigrateVerify, backfill.MigrateBreaking} {
		_, err := backfill.Open(t.Context(), db.URL, backfill.WithMigrations(mode), backfill.WithLogger(quiet))
		if !errors.Is(err, backfill.ErrBreakingMigration) {
			t.Errorf("mode %d: %v", mode, err)
		}
		wantError(t, err, "found revision 21, with breaking revision 21")
	}
}

func TestLoggers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var clients, workers logBook
	client := newClient(t, db, backfill.WithLogger(clients.logger()))
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error { return nil })
	enqueue(t, client, task, mailArgs{})
	runOnce(t, client, registry)
	config := db.Pool().Config().ConnConfig
	server := fmt.Sprintf("server=%s:%d ", config.Host, config.Port)
	if pooled {
		server = "server=127.0.0.1:" // the pooler's
	}
	clients.want(t, "worker started", "worker stopped", "task=send_email", "worker_id=pool-", server,
		fmt.Sprintf(" database=%s schema=graphile_worker", config.Database))
	before := clients.String()
	enqueue(t, client, task, mailArgs{})
	runOnce(t, client, registry, backfill.WithLogger(workers.logger()))
	workers.want(t, "worker started", "task=send_email")
	if clients.String() != before {
		t.Errorf("the client's logger has more: %s", clients.String())
	}
}

// Everything that is wrong is in one error.
func TestOptionsThatAreWrong(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	wrong := []backfill.ClientOption{
		nil, backfill.WithSchema(""), backfill.WithSchema("a\x00b"), backfill.WithSchema(strings.Repeat("x", 64)),
		backfill.WithMigrations(9), backfill.WithLogger(&slog.Logger{}),
	}
	problems := []string{"WithSchema: ", "WithMigrations: unknown mode 9", "WithLogger: the logger is nil"}
	_, opening := backfill.Open(t.Context(), "postgres://u:secret@host:port/db", wrong...)
	_, making := backfill.NewClient(t.Context(), nil, wrong...)
	for _, problem := range problems {
		wantError(t, opening, problem)
		wantError(t, making, problem)
	}
	wantError(t, opening, "the database URL cannot be read (its host, port or parameters")
	wantError(t, making, "the pool is nil")
	if n := strings.Count(opening.Error(), "WithSchema"); n != 3 {
		t.Errorf("%d problems of WithSchema, want 3: %v", n, opening)
	}
	wantSecret(t, "secret", opening.Error())

	task := &backfill.Task[mailArgs]{Name: "send_email", MaxAttempts: -1}
	registry := backfill.NewRegistry(backfill.Require("Handlers.Mailer", false), backfill.Handle(task, ignore), backfill.Handle(task, ignore))
	_, err := newClient(t, db).NewWorker(registry, nil, backfill.WithConcurrency(0), backfill.WithDrainTimeout(-1),
		backfill.WithMiddleware(nil), backfill.WithLogger(nil))
	for _, problem := range []string{
		"WithConcurrency: 0 is out of range", "WithDrainTimeout: -1ns is negative", "WithMiddleware: argument 1 is nil",
		"WithLogger: the logger is nil", "Handlers.Mailer is required", "max_attempts is -1", `task "send_email" is bound twice`,
	} {
		wantError(t, err, problem)
	}
	_, err = newClient(t, db).NewWorker(nil)
	wantError(t, err, "registry is nil")
}
