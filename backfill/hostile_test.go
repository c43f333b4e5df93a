package backfill_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/migrations"
	"github.com/backfillhq/go/testutil/pgtest"
)

const schemaName = "graphile_worker"

// Whatever is in the texts of a request, it is stored as it is, or refused before anything is sent,
// in every way to enqueue; and nothing else changes.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	fields := map[string]struct {
		set func(*backfill.Request, string)
		get func(jobRow) string
	}{
		"task":  {func(r *backfill.Request, s string) { r.Task = s }, func(row jobRow) string { return row.Task }},
		"queue": {func(r *backfill.Request, s string) { r.Queue = s }, func(row jobRow) string { return row.Queue }},
		"key":   {func(r *backfill.Request, s string) { r.Key = s }, func(row jobRow) string { return row.Key }},
		"flags": {func(r *backfill.Request, s string) { r.Flags = []string{s} }, func(row jobRow) string { return onlyFlag(row.Flags) }},
		"args": {
			func(r *backfill.Request, s string) { r.Args = raw(quoteJSON(s)) },
			func(row jobRow) string { return row.Payload },
		},
	}
	ways := map[string]func(*testing.T, *pgtest.Database, *backfill.Client) transaction{
		"directly": func(_ *testing.T, _ *pgtest.Database, client *backfill.Client) transaction {
			nothing := func() error { return nil }
			return transaction{client, nothing, nothing}
		},
	}
	maps.Copy(ways, transactions())
	for way, begin := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			dbtest.Plant(t, db.Pool())
			before := dbtest.Dump(t, db.Pool(), schemaName)
			tx := begin(t, db, client)
			for name, field := range fields {
				for _, text := range dbtest.Hostile() {
					request := backfill.Request{Task: "t"}
					field.set(&request, text)
					jobs, err := tx.enqueuer.Enqueue(t.Context(), request)
					if fine := request.Validate() == nil; !fine {
						if !errors.Is(err, backfill.ErrInvalidRequest) || len(err.Error()) > 1000 || !utf8.ValidString(err.Error()) {
							t.Errorf("%s %.80q: error is %v", name, text, err)
						}
						continue
					}
					if err != nil {
						t.Fatalf("%s %.80q: %v", name, text, err)
					}
					if name == "queue" && jobs[0].Queue != text || name == "task" && jobs[0].Task != text {
						t.Errorf("%s %.80q came back as %+v", name, text, jobs[0])
					}
				}
			}
			if err := tx.commit(); err != nil {
				t.Fatal(err)
			}
			for name, field := range fields {
				var want []string
				for _, text := range dbtest.Hostile() {
					request := backfill.Request{Task: "t"}
					field.set(&request, text)
					if request.Validate() == nil && text != "" && text != "t" {
						want = append(want, field.get(jobRow{Task: text, Queue: text, Key: text, Flags: `{` + quoteJSON(text) + `: true}`, Payload: quoteJSON(text)}))
					}
				}
				var got []string
				for _, row := range jobRows(t, db) {
					got = append(got, field.get(row))
				}
				for _, text := range want {
					if !slices.Contains(got, text) {
						t.Errorf("%s %.80q is not stored as it is", name, text)
					}
				}
			}
			if diff := cmp.Diff(before, dbtest.Dump(t, db.Pool(), schemaName)); diff != "" {
				t.Errorf("the database has changed (-before +after):\n%s", diff)
			}
		})
	}
}

// The same for what operators pass, for what is in locked_by and in the URL, and for crontabs.
func TestHostileTextsElsewhere(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	dbtest.Plant(t, db.Pool())
	_, registry := taskOf("other", func(context.Context, struct{}) error { return nil })
	before := dbtest.Dump(t, db.Pool(), schemaName)
	bounded := func(what, text string, err error) {
		t.Helper()
		if err != nil && (len(err.Error()) > 2000 || !utf8.ValidString(err.Error())) {
			t.Errorf("%s %.80q: the error has %d bytes: %.200q", what, text, len(err.Error()), err)
		}
	}
	for _, text := range dbtest.Hostile() {
		ctx := t.Context()
		job, err := client.Enqueue(ctx, backfill.Request{Task: "t", Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.RemoveJob(ctx, text)
		bounded("RemoveJob", text, err)
		_, err = client.FailJobs(ctx, text, job[0].ID)
		bounded("FailJobs", text, err)
		_, err = client.Cleanup(ctx, backfill.CleanupOptions{TaskNames: true, QueueNames: true, KeepTasks: []string{text, "t"}})
		bounded("Cleanup", text, err)
		if utf8.ValidString(text) && !slices.Contains([]byte(text), 0) {
			exec(t, db.Pool(), "update graphile_worker._private_jobs set attempts = 1, locked_at = now() - interval '5 hours', locked_by = $1", text)
			if worker := runOnce(t, client, registry); worker.Failed > 0 {
				t.Error("a job was run")
			}
			_, err = client.UnlockWorker(ctx, text)
			if text != "" && err != nil {
				t.Errorf("UnlockWorker %.80q: %v", text, err)
			}
			exec(t, db.Pool(), "update graphile_worker._private_jobs set attempts = 1, locked_at = now(), locked_by = $1", text)
			unlocked, err := client.ForceUnlock(ctx, text)
			if text != "" && (err != nil || len(unlocked) != 1) {
				t.Errorf("ForceUnlock %.80q: %v, %v", text, unlocked, err)
			}
			exec(t, db.Pool(), "update graphile_worker._private_jobs set locked_at = now() - interval '5 hours', locked_by = $1", text)
			if n, err := client.ReleaseStaleLocks(ctx); n != 1 || err != nil {
				t.Errorf("ReleaseStaleLocks %.80q: %d, %v", text, n, err)
			}
		}
		_, err = client.NewWorker(registry, backfill.WithForbiddenFlags(text))
		bounded("WithForbiddenFlags", text, err)
		for _, line := range []string{"* * * * * t ?id=" + text, "* * * * * t ?jobKey=" + url.QueryEscape(text), "* * * * * " + text, `* * * * * t {"a":` + quoteJSON(text) + "}"} {
			_, err = client.NewWorker(registry, backfill.WithCrontab(line))
			if err != nil && !utf8.ValidString(err.Error()) {
				t.Errorf("WithCrontab %.80q: %q", line, err)
			}
		}
		named := serverURL(t, db, func(u *url.URL) { u.RawQuery += "&application_name=" + url.QueryEscape(text) })
		opened, err := backfill.Open(ctx, named, backfill.WithLogger(quiet))
		bounded("application_name", text, err)
		if err == nil {
			opened.Close()
		}
	}
	if diff := cmp.Diff(before, dbtest.Dump(t, db.Pool(), schemaName)); diff != "" {
		t.Errorf("the database has changed (-before +after):\n%s", diff)
	}
}

// A schema's name is a name, or refused; jobs are enqueued and run in it.
func TestHostileSchemas(t *testing.T) {
	t.Parallel()
	for i, name := range append(dbtest.Hostile(), "$1.$2 of $10") {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			db := pgtest.Empty(t)
			dbtest.Plant(t, db.Pool())
			before := dbtest.Dump(t, db.Pool(), storable(name))
			client, err := backfill.Open(t.Context(), db.URL, backfill.WithSchema(name), backfill.WithLogger(quiet))
			switch {
			case err != nil:
				if migrations.CheckSchemaName(name) == nil || len(err.Error()) > 1000 || !utf8.ValidString(err.Error()) {
					t.Errorf("name %d: %.200q", i, err)
				}
			default:
				defer client.Close()
				task := &backfill.Task[struct{}]{Name: "t"}
				never := &backfill.Task[struct{}]{Name: "never"}
				inTx, registry := txTask(nil, func(context.Context, pgx.Tx, txArgs) error { return nil },
					backfill.Handle(task, func(context.Context, struct{}) error { return nil }),
					backfill.Handle(never, func(context.Context, struct{}) error { return backfill.Permanent(errBoom) }))
				for _, options := range [][]backfill.EnqueueOption{nil, {backfill.Key("k"), backfill.Queue("q")}} {
					enqueue(t, client, task, struct{}{}, options...)
				}
				for _, options := range [][]backfill.EnqueueOption{nil, {backfill.Key("k in tx"), backfill.Queue("q")}} {
					enqueue(t, client, inTx, txArgs{}, options...)
				}
				enqueue(t, client, never, struct{}{}, backfill.Queue("q"))
				if report := runOnce(t, client, registry); report.Completed != 4 || report.Exhausted != 1 {
					t.Errorf("schema %.80q: %+v", name, report)
				}
				if result := requeue(t, client, backfill.DeadLetterFilter{All: true}); result.Acted != 1 {
					t.Errorf("schema %.80q: %+v", name, result)
				}
			}
			if diff := cmp.Diff(before, dbtest.Dump(t, db.Pool(), storable(name))); diff != "" {
				t.Errorf("schema %.80q: the database has changed (-before +after):\n%s", name, diff)
			}
		})
	}
}

// storable is a name as far as PostgreSQL takes it for a parameter.
func storable(name string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(name, ""), "\x00", "")
}

func quoteJSON(text string) string {
	quoted, _ := json.Marshal(text) // cannot fail for a string
	return string(quoted)
}

// onlyFlag is the name in {"name": true}.
func onlyFlag(flags string) string {
	set := map[string]bool{}
	_ = json.Unmarshal([]byte(flags), &set)
	for name := range set {
		return name
	}
	return ""
}
