package infra_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/devpg"
)

// newStandby starts a server, a copy of it that follows it as a hot standby, and waits until it
// streams.
func newStandby(t *testing.T) (primary, standby string) {
	t.Helper()
	folder, copied := serverFolder(t), serverFolder(t)
	_, restart := ownServer(t, folder)
	primary = restart(func() { // a copy of a server that has stopped in order is a base backup
		if err := os.CopyFS(copied, os.DirFS(folder)); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.Chmod(filepath.Join(copied, "data"), 0o700); err != nil { // CopyFS adds rights
		t.Fatal(err)
	}
	at, err := url.Parse(primary)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := at.User.Password()
	settings := fmt.Sprintf("primary_conninfo = 'host=%s port=%s user=%s password=%s'\n", at.Hostname(), at.Port(), at.User.Username(), password)
	for name, content := range map[string]string{"standby.signal": "", "postgresql.auto.conf": settings} {
		if err := os.WriteFile(filepath.Join(copied, "data", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server, err := devpg.Start(t.Context(), devpg.Config{DataDir: copied, Major: majorOf(t, copied)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	conn := dbtest.Connect(t, primary)
	within(t, hang, "the standby to stream", func() bool {
		return dbtest.Get[bool](t, conn, "select exists (select from pg_stat_replication where state = 'streaming')")
	})
	return primary, server.URL
}

func majorOf(t *testing.T, folder string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(folder, "data", "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	major, err := strconv.Atoi(string(content[:len(content)-1]))
	if err != nil {
		t.Fatal(err)
	}
	return major
}

// replayed waits until the standby has all that the primary has written until now.
func replayed(t *testing.T, primary, standby *pgx.Conn) {
	t.Helper()
	lsn := dbtest.Get[string](t, primary, "select pg_current_wal_lsn()::text")
	within(t, hang, "the standby to follow", func() bool {
		return dbtest.Get[bool](t, standby, "select pg_last_wal_replay_lsn() >= $1::pg_lsn", lsn)
	})
}

// Why and doctor answer on a standby: about what runs, waits and has failed, without asking a worker
// or the sessions, which are on the primary.
func TestStandbyAnswers(t *testing.T) {
	t.Parallel()
	long(t)
	primaryURL, standbyURL := newStandby(t)
	primary, standby := dbtest.Connect(t, primaryURL), dbtest.Connect(t, standbyURL)
	var log logbook
	defer log.show(t)
	client := open(t, primaryURL, &log)
	begun, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	slow := &backfill.Task[job]{Name: "slow", Queue: func(job) string { return "q" }}
	bad := &backfill.Task[job]{Name: "bad"}
	registry := backfill.NewRegistry(
		backfill.Handle(slow, func(context.Context, job) error { close(begun); <-release; return nil }),
		backfill.Handle(bad, func(context.Context, job) error { return backfill.Permanent(fmt.Errorf("no such user")) }),
	)
	start(t, client, registry)
	enqueue := func(task *backfill.Task[job], opts ...backfill.EnqueueOption) int64 {
		t.Helper()
		j, err := backfill.Enqueue(t.Context(), client, task, job{}, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return j.ID
	}
	running := enqueue(slow)
	receive(t, "the slow job", begun)
	waiting, failed := enqueue(slow), enqueue(bad)
	later := enqueue(&backfill.Task[job]{Name: "bad"}, backfill.RunAt(dbtest.Get[time.Time](t, primary, "select now() + interval '3 hours'")))
	within(t, hang, "the worker's row and the dead letter", func() bool {
		return dbtest.Get[bool](t, primary, `select exists (select from graphile_worker.backfill_workers where $1 = any(running))
			and exists (select from graphile_worker.backfill_dlq where original_job_id = $2)`, running, failed)
	})
	replayed(t, primary, standby)

	operator, err := admin.Open(standbyURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Close)
	for id, want := range map[int64]admin.Code{
		running: admin.Running, waiting: admin.QueueHeld, failed: admin.DeadLetter, later: admin.NotDue,
		later + 1000: admin.Gone, // or not given out: a standby hears of 32 ids at once
	} {
		x, err := operator.Why(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if x.Blocker.Code != want || x.Blocker.Stack != "" {
			t.Errorf("job %d: %s, want %s: %s %+v", id, x.Blocker.Code, want, x.Blocker.Text, x.Missing)
		}
		if !slices.ContainsFunc(x.Notes, func(note string) bool {
			return note == "This is a standby: the tables are told as they were when it last heard of the primary."
		}) {
			t.Errorf("job %d: notes %q", id, x.Notes)
		}
	}
	d, err := operator.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Findings) > 0 {
		t.Errorf("findings %+v", d.Findings)
	}
	if len(d.Missing) != 1 || d.Missing[0].What != "what sessions do" {
		t.Errorf("missing %+v", d.Missing)
	}
	// What is wrong in the tables is found there, too.
	dbtest.Run(t, primary, "select setval('graphile_worker.tasks_id_seq', 2147000000)")
	replayed(t, primary, standby)
	if d, err = operator.Doctor(t.Context()); err != nil || len(d.Findings) != 1 || d.Findings[0].Code != admin.SequenceNearEnd {
		t.Errorf("%v: %+v", err, d)
	}
}
