package interop_test

import (
	"errors"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
)

// Notifications of each side reach the other (contract sections 2.5 and 3). Who waits for its poll instead is seen to poll, or hangs.
func TestB6Notify(t *testing.T) {
	t.Parallel()
	point(t)
	for name, test := range map[string]func(*fixture){
		"Go wakes Node": goWakesNode, "Node wakes Go": nodeWakesGo,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inSchemas(t, test)
		})
	}
	t.Run("a breaking migration stops both", func(t *testing.T) {
		t.Parallel()
		breakingMigrationStops(newFixture(t))
	})
}

// Node's next poll is ten minutes away.
func goWakesNode(f *fixture) {
	node := startPeer(f)
	workIdly(f, node)
	from := node.record.len()
	enqueued := f.enqueue(full)
	worked, before := node.record.await(f.T, "the job", from, is("job"))
	if worked.Job.ID != enqueued.ID {
		f.Errorf("Node worked job %d, want %d", worked.Job.ID, enqueued.ID)
	}
	notified := func(m message) bool { return event("pool:listen:notification")(m) && m.Channel == "jobs:insert" }
	if !slices.ContainsFunc(before, notified) {
		f.Errorf("Node had no notification: %+v", before)
	}
	node.stop()
}

// workIdly starts a worker in Node that has nothing to do, listens, and will not poll while the test runs.
func workIdly(f *fixture, node *peer) {
	f.Helper()
	node.work(bodies{task.Name: ""}, map[string]any{"pollInterval": 600_000})
	node.record.await(f.T, "Node to listen", 0, event("pool:listen:success"))
	node.record.await(f.T, "Node to find nothing", 0, event("worker:getJob:empty"))
	f.awaitListener() // Node says that it listens before it does
}

// Go polls every two seconds, so a poll may fall in between: then another try shows whether the jobs start without one.
func nodeWakesGo(f *fixture) {
	events := f.work()
	events.await(f.T, "Go to listen", 0, ofKind(backfill.EventListening))
	node := startPeer(f)
	for range 5 {
		from := events.len()
		added := node.add(task.Name, full, nil)
		_, before := events.await(f.T, "the job's end", from, finished(added.ID))
		if slices.ContainsFunc(before, ofKind(backfill.EventWoken)) && !slices.ContainsFunc(before, ofKind(backfill.EventPolled)) {
			node.stop()
			return
		}
	}
	f.Error("jobs start only when Go polls")
}

func finished(id int64) func(backfill.Event) bool {
	return func(e backfill.Event) bool { return e.Kind == backfill.EventFinished && e.Job.ID == id }
}

// Node believes the notification of a breaking migration, also if it was in another schema of the database. Go reads its own ledger.
func breakingMigrationStops(f *fixture) {
	node := startPeer(f)
	workIdly(f, node)
	events, _ := f.startWorker()
	events.await(f.T, "Go to listen", 0, ofKind(backfill.EventListening))

	migrateAnotherSchema(f)
	node.record.await(f.T, "Node to stop", 0, is("stopped"))
	node.wantExit(57)
	node.wantLog("warning", "breaking migration to database schema revision '19'")
	for range 3 {
		from := events.len()
		enqueued := f.enqueue(full)
		events.await(f.T, "Go to work on", from, finished(enqueued.ID))
	}

	_, err := f.db.Pool().Exec(f.Context(), "insert into "+f.table("migrations")+` (id, breaking) values (21, true);
		select pg_notify('worker:migrate', '{"migrationNumber":21,"breaking":true}')`)
	if err != nil {
		f.Fatal(err)
	}
	if err := events.awaitEnd(f.T); !errors.Is(err, backfill.ErrBreakingMigration) {
		f.Errorf("Go ended with the error %v", err)
	}
	f.wantNothingLeft()
}

// migrateAnotherSchema takes a schema of Graphile Worker 0.16, as far as its ledger tells, to ours.
func migrateAnotherSchema(f *fixture) {
	f.Helper()
	const another = "Custom-Worker"
	logger := slog.New(slog.NewTextHandler(f.Output(), nil))
	for _, mode := range []backfill.MigrateMode{backfill.MigrateAuto, backfill.MigrateBreaking} {
		client, err := backfill.Open(f.Context(), f.db.URL, backfill.WithSchema(another), backfill.WithMigrations(mode), backfill.WithLogger(logger))
		if err != nil {
			f.Fatal(err)
		}
		client.Close()
		if mode == backfill.MigrateAuto {
			if _, err := f.db.Pool().Exec(f.Context(), `delete from "`+another+`".migrations where id > 18`); err != nil {
				f.Fatal(err)
			}
		}
	}
}

// wantExit ends the input, and checks how the process ends.
func (p *peer) wantExit(code int) {
	p.t.Helper()
	p.input.Close()
	var exit *exec.ExitError
	if err := p.record.awaitEnd(p.t); !errors.As(err, &exit) || exit.ExitCode() != code {
		p.t.Errorf("Node ended with the error %v, want exit status %d", err, code)
	}
}

// wantLog checks that the process has logged something.
func (p *peer) wantLog(level, text string) {
	p.t.Helper()
	entries, _, _ := p.record.seen()
	logged := func(m message) bool { return m.Type == "log" && m.Level == level && strings.Contains(m.Text, text) }
	if !slices.ContainsFunc(entries, logged) {
		p.t.Errorf("Node logged no %s about %q: %+v", level, text, entries)
	}
}
