package infra_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/devpg"
	"github.com/backfillhq/go/internal/needs"
)

// ownServer starts a server that a test may damage, in a folder that keeps its data, and returns
// what stops it and starts it again, at another address.
func ownServer(t *testing.T, folder string) (url string, restart func(stopped func()) (url string)) {
	t.Helper()
	major, _ := strconv.Atoi(os.Getenv("BACKFILL_TEST_PG_MAJOR")) // pgtest complains, if it is wrong
	start := func() *devpg.Server {
		t.Helper()
		server, err := devpg.Start(t.Context(), devpg.Config{DataDir: folder, Major: major})
		if err != nil {
			t.Fatal(err)
		}
		needs.That(t, server.Owned(), "server of the test's own: unset DATABASE_URL")
		return server
	}
	server := start()
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server.URL, func(stopped func()) string {
		t.Helper()
		if err := server.Stop(); err != nil {
			t.Fatal(err)
		}
		stopped()
		server = start()
		return server.URL
	}
}

// serverFolder is a folder for a server that may run as another user.
func serverFolder(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.Chmod(filepath.Dir(folder), 0o755); err != nil { //nolint:gosec // that user must get there
		t.Fatal(err)
	}
	return filepath.Join(folder, "pg")
}

// The server that a worker and its client are connected to becomes a standby, whose sessions live
// on and take no writes (25006), while new connections lead to the server that does: both connect
// again, at once.
func TestFailOverWithLivingSessions(t *testing.T) {
	t.Parallel()
	url, _ := ownServer(t, serverFolder(t))
	var log logbook
	defer log.show(t)
	client := open(t, url, &log)
	j := newJournal()
	task, registry := j.work()
	w := start(t, client, registry)
	admin := dbtest.Connect(t, url)
	stop := j.produce(t, 2, 5*time.Millisecond, func(ctx context.Context) error { return j.enqueue(ctx, client, task, "") })
	within(t, hang, "work", func() bool { _, ran, _ := j.counts(); return ran > 50 && w.Health().Listening })
	// Of the two, only sessions that are there already are read-only: what is set for a database goes
	// before what is set for the server, but only for those that begin later.
	dbtest.Run(t, admin, "alter database postgres set default_transaction_read_only = off")
	dbtest.Run(t, admin, "alter system set default_transaction_read_only = on")
	dbtest.Run(t, admin, "select pg_reload_conf()")
	within(t, hang, "the sessions to be read-only", func() bool { return dbtest.Get[string](t, admin, "show transaction_read_only") == "on" })
	_, before, _ := j.counts()
	took := within(t, 10*time.Second, "work on new connections", func() bool { _, ran, _ := j.counts(); return ran > before+50 })
	within(t, 30*time.Second, "the worker to be ready", func() bool { return w.Health().Ready() == nil && w.Health().Listening })
	stop()
	within(t, hang, "all jobs", func() bool { return len(j.lost()) == 0 })
	_, _, refused := j.counts()
	t.Logf("50 jobs had run after %v; %d enqueues failed; %d lines", took, refused, len(log.from(slog.LevelWarn)))
	if refused > 0 {
		t.Errorf("enqueues failed: %v", j.refusals()[0])
	}
	if n := len(log.from(slog.LevelWarn)); n > 10 {
		t.Errorf("%d lines", n)
	}
}

// A server that takes no writes for a while, on new connections too: the worker lives on and says
// why nothing is done, enqueues are refused for that reason, and all goes on by itself.
func TestReadOnlyForAWhile(t *testing.T) {
	t.Parallel()
	long(t)
	url, _ := ownServer(t, serverFolder(t))
	var log logbook
	defer log.show(t)
	client := open(t, url, &log)
	j := newJournal()
	task, registry := j.work()
	w := start(t, client, registry)
	admin := dbtest.Connect(t, url)
	stop := j.produce(t, 2, 5*time.Millisecond, func(ctx context.Context) error { return j.enqueue(ctx, client, task, "") })
	within(t, hang, "work", func() bool { _, ran, _ := j.counts(); return ran > 20 })
	set := func(value string) {
		t.Helper()
		dbtest.Run(t, admin, "alter system set default_transaction_read_only = "+value)
		dbtest.Run(t, admin, "select pg_reload_conf()")
	}
	set("on")
	within(t, 10*time.Second, "the reason in the log", func() bool { return len(log.from(slog.LevelWarn, "takes no writes")) > 0 })
	within(t, 10*time.Second, "enqueues to be refused", func() bool { _, _, refused := j.counts(); return refused > 20 })
	w.lives()
	if w.Health().Ready() == nil {
		t.Error("the worker says that it is ready")
	}
	set("off")
	_, before, _ := j.counts()
	took := within(t, 10*time.Second, "work", func() bool { _, ran, _ := j.counts(); return ran > before+20 })
	stop()
	within(t, hang, "all jobs", func() bool { return len(j.lost()) == 0 })
	for _, err := range j.refusals() {
		if !strings.Contains(err.Error(), "takes no writes") && !strings.Contains(err.Error(), "25006") {
			t.Errorf("an enqueue failed with: %v", err)
		}
	}
	within(t, 15*time.Second, "the line that it is over", func() bool { return len(log.with("claims succeed again")) == 1 })
	t.Logf("20 jobs had run after %v; %d lines", took, len(log.from(slog.LevelWarn)))
	if n := len(log.from(slog.LevelWarn)); n > 20 {
		t.Errorf("%d lines", n)
	}
}

// A server that restarts, in order, while work goes on: nothing acknowledged is lost, and the
// worker works within seconds after it is back.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	long(t)
	url, restart := ownServer(t, serverFolder(t))
	balancer, through := dbtest.NewBalancer(t, url)
	var log logbook
	defer log.show(t)
	client := open(t, through, &log)
	j := newJournal()
	task, registry := j.work()
	w := start(t, client, registry, backfill.WithConcurrency(4))
	stop := j.produce(t, 2, 5*time.Millisecond, func(ctx context.Context) error { return j.enqueue(ctx, client, task, "", backfill.Queue("q")) })
	within(t, hang, "work", func() bool { _, ran, _ := j.counts(); return ran > 50 })
	url = restart(func() { time.Sleep(2 * time.Second) })
	balancer.Lead(t, url)
	_, before, _ := j.counts()
	took := within(t, 10*time.Second, "work", func() bool { _, ran, _ := j.counts(); return ran > before+20 })
	w.lives()
	stop()
	within(t, hang, "all jobs", func() bool { return len(j.lost()) == 0 })
	lines := log.from(slog.LevelWarn)
	t.Logf("20 jobs had run after %v; %d lines", took, len(lines))
	for _, over := range []string{"claims succeed again", "listener is connected again"} {
		within(t, 15*time.Second, over, func() bool { return len(log.with(over)) > 0 })
	}
	if len(lines) > 20 {
		t.Errorf("%d lines", len(lines))
	}
}

// Commits that notify wait for each other. While one of them waits for a standby that is gone, a
// lock_timeout of the application's ends no notification of ours: it is sent when its turn comes.
func TestNotificationsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	url, _ := ownServer(t, serverFolder(t))
	admin := dbtest.Connect(t, url)
	for _, sql := range []string{
		"alter database postgres set lock_timeout = '1ms'", "alter database postgres set synchronous_commit = local",
		"alter system set synchronous_standby_names = 'gone'", "select pg_reload_conf()",
	} {
		dbtest.Run(t, admin, sql)
	}
	var log logbook
	defer log.show(t)
	client := open(t, url, &log)
	blocker := dbtest.Connect(t, url)
	dbtest.Run(t, blocker, "set synchronous_commit = on")
	notified := make(chan error, 1)
	go func() {
		_, err := blocker.Exec(t.Context(), "create table waits (); notify first") // one that writes
		notified <- err
	}()
	within(t, hang, "a commit that waits", func() bool {
		return dbtest.Get[bool](t, admin, "select exists (select from pg_stat_activity where wait_event = 'SyncRep')")
	})
	j := newJournal()
	task, _ := j.work()
	if err := j.enqueue(t.Context(), client, task, ""); err != nil {
		t.Fatal(err)
	}
	within(t, hang, "our notification to wait", func() bool {
		return dbtest.Get[bool](t, admin, "select exists (select from pg_locks where locktype = 'object' and not granted)") || len(log.with("not notified")) > 0
	})
	time.Sleep(100 * time.Millisecond)
	dbtest.Run(t, admin, "alter system reset synchronous_standby_names")
	dbtest.Run(t, admin, "select pg_reload_conf()")
	if err := receive(t, "the other commit", notified); err != nil {
		t.Error(err)
	}
	if lines := log.from(slog.LevelWarn); len(lines) > 0 {
		t.Errorf("logged %q", lines)
	}
}
