package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// What must not be seen: a password, and what is in args.
const (
	hiddenPassword = "p4ssw0rd-m4rk3r"
	hiddenArgs     = "4rgs-m4rk3r"
)

// secretive is a database whose URL has the password, and what is seen of what happens there.
type secretive struct {
	t      *testing.T
	db     *pgtest.Database
	url    string
	client *backfill.Client
	book   logBook
	events logOfEvents
	errs   []error // of calls
}

func newSecretive(t *testing.T) *secretive {
	t.Helper()
	s := &secretive{t: t, db: pgtest.New(t)}
	admin := connect(t, s.db)
	needs.That(t, get[string](t, admin, "select current_setting('is_superuser')") == "on", "superuser on the test's server")
	role := "secretive_" + get[string](t, admin, "select left(md5(random()::text), 8)")
	s.exec(fmt.Sprintf("create role %s superuser login password '%s'", role, hiddenPassword))
	t.Cleanup(func() { _, _ = s.db.Pool().Exec(context.Background(), "drop role "+role) })
	s.url = serverURL(t, s.db, func(u *url.URL) { u.User = url.UserPassword(role, hiddenPassword) })
	client, err := backfill.Open(t.Context(), s.url, backfill.WithLogger(s.book.logger()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.client = client
	return s
}

func (s *secretive) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.Pool().Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// fails notes the error of a call that has to fail.
func (s *secretive) fails(what string, err error) {
	s.t.Helper()
	if err == nil {
		s.t.Errorf("%s: no error", what)
	}
	s.errs = append(s.errs, err)
}

// check looks at everything that was seen.
func (s *secretive) check() {
	s.t.Helper()
	for line := range strings.Lines(s.book.String()) {
		wantSecret(s.t, hiddenPassword, line)
		if !strings.Contains(line, "level=DEBUG") {
			wantSecret(s.t, hiddenArgs, line)
		}
	}
	for _, err := range s.errs {
		wantSecret(s.t, hiddenPassword, fmt.Sprintf("%v %+v", err, err))
		wantSecret(s.t, hiddenArgs, fmt.Sprintf("%v %+v", err, err))
	}
	for _, event := range s.events.list {
		wantSecret(s.t, hiddenPassword, fmt.Sprintf("%v %+v", event.Err, event.Err))
		wantSecret(s.t, hiddenArgs, fmt.Sprintf("%v %+v", event.Err, event.Err))
	}
	for _, row := range jobRows(s.t, s.db) {
		wantSecret(s.t, hiddenPassword, row.LastError)
		wantSecret(s.t, hiddenArgs, row.LastError)
	}
}

type hiding struct {
	Case string
	Args any
}

// What handlers return and panic with, what does not decode, what the database refuses, and what
// breaks: no password is in the log, in events, in errors and in rows, and no args are in the log
// above DEBUG.
func TestNothingSecretIsSeen(t *testing.T) {
	t.Parallel()
	s := newSecretive(t)
	leak := fmt.Errorf("dial postgres://app:%s@db/shop: refused; Authorization: Bearer %s", hiddenPassword, hiddenPassword)
	released := make(chan struct{})
	task := &backfill.Task[hiding]{Name: "hide", Backoff: backfill.FixedBackoff(time.Hour)}
	handler := backfill.Handle(task, func(ctx context.Context, args hiding) error {
		switch args.Case {
		case "error", "refused":
			return leak
		case "wrapped":
			return backfill.RetryIn(time.Hour, fmt.Errorf("send: %w", leak))
		case "permanent":
			return backfill.Permanent(leak)
		case "panic":
			panic(leak)
		case "panic with text":
			panic(leak.Error())
		case "long":
			return errors.New(strings.Repeat("x", 9_990) + " " + leak.Error() + strings.Repeat(" y", 5_000_000))
		case "bytes":
			return errors.New("\x00\xff" + leak.Error())
		case "lost":
			s.exec("update graphile_worker._private_jobs set locked_by = null, locked_at = null, attempts = max_attempts where id = $1", backfill.JobInfo(ctx).ID)
		case "cut":
			s.exec("select pg_terminate_backend(pid) from pg_stat_activity where usename like 'secretive_%' and datname = current_database()")
			return leak
		case "stubborn":
			<-released
		}
		return nil
	})
	registry := backfill.NewRegistry(handler, backfill.Handle(&backfill.Task[[]string]{Name: "batch"}, func(context.Context, []string) error {
		return &backfill.BatchError{Errs: map[int]error{0: leak}}
	}))
	for _, name := range []string{"error", "wrapped", "permanent", "panic", "panic with text", "long", "bytes", "refused", "cut", "stubborn"} {
		enqueue(t, s.client, task, hiding{Case: name, Args: map[string]string{hiddenArgs: hiddenArgs}}, backfill.MaxAttempts(2))
	}
	for _, args := range []string{`["` + hiddenArgs + `"]`, `{"Case": {"` + hiddenArgs + `": 1}}`, `"` + hiddenArgs + `"`, `{"Case": 7, "` + hiddenArgs + `": 1}`} {
		if _, err := s.client.Enqueue(t.Context(), backfill.Request{Task: "hide", Args: raw(args)}, backfill.Request{Task: "batch", Args: raw(`["` + hiddenArgs + `"]`)}); err != nil {
			t.Fatal(err)
		}
	}
	// The server's errors about this row have all of its columns in their details.
	s.exec(`alter table graphile_worker._private_jobs add constraint poison check (payload->>'Case' <> 'refused' or locked_at is not null) not valid`)

	worker := start(t, s.client, registry, backfill.WithObserver(s.events.observe), backfill.WithConcurrency(4), backfill.WithDrainTimeout(100*time.Millisecond),
		backfill.WithObserver(func(e backfill.Event) {
			if e.Kind == backfill.EventFailed {
				panic(leak)
			}
		}))
	worker.await("failures", 15, is(backfill.EventFailed))
	until(t, "a refused outcome", func() bool { return s.events.count(backfill.EventFlushError) > 2 })
	enqueue(t, newClient(t, s.db), task, hiding{Case: "lost", Args: hiddenArgs}) // the client's own connections were cut
	until(t, "a lost lease", func() bool { return s.events.count(backfill.EventLeaseLost) > 0 })
	// The handler may have cut all sessions before the listener had one.
	s.exec("select pg_terminate_backend(pid) from pg_stat_activity where usename like 'secretive_%' and datname = current_database() and query ilike '%listen %'")
	until(t, "a disrupted listener", func() bool { return s.events.count(backfill.EventDisrupted) > 0 })
	until(t, "a refused outcome", func() bool {
		return strings.Contains(s.book.String(), "refuses an outcome") || s.events.count(backfill.EventFlushError) > 2
	})
	s.exec("alter table graphile_worker._private_jobs drop constraint poison")
	_ = worker.stop()
	close(released)

	s.enqueues()
	s.connects()
	s.check()
	s.book.want(t, "job ended", "handler panicked", "leases lost", "a function of the application failed", "outcome")
	var stored int
	for _, row := range jobRows(t, s.db) {
		if strings.Contains(row.LastError, "postgres://app:***@db/shop: refused; Authorization: Bearer ***") {
			stored++
		}
	}
	if stored < 6 {
		t.Errorf("%d errors are stored with their secrets masked, want at least 6", stored)
	}
}

// enqueues provokes errors of enqueues.
func (s *secretive) enqueues() {
	s.t.Helper()
	s.exec(`alter table graphile_worker._private_jobs add constraint poison check (priority <> 13) not valid`)
	args := raw(`{"Args": "` + hiddenArgs + `"}`)
	for what, request := range map[string]backfill.Request{
		"not JSON":   {Task: "hide", Args: raw(`{"Args": "` + hiddenArgs + `"`)},
		"constraint": {Task: "hide", Args: args, Priority: 13},
		"keyed":      {Task: "hide", Args: args, Priority: 13, Key: "k"},
		"merged":     {Task: "hide", Args: raw(`["` + hiddenArgs + `", "\u0000"]`), Key: "k"},
	} {
		_, err := s.client.Enqueue(s.t.Context(), request)
		s.fails(what, err)
		tx, err := s.db.Pool().Begin(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		_, err = s.client.WithTx(tx).Enqueue(s.t.Context(), request)
		s.fails(what+" in a transaction", err)
		_ = tx.Rollback(s.t.Context())
	}
	s.exec("alter table graphile_worker._private_jobs drop constraint poison")
}

// connects provokes errors of connections.
func (s *secretive) connects() {
	s.t.Helper()
	for what, change := range map[string]func(*url.URL){
		"port":      func(u *url.URL) { u.Host = "127.0.0.1:1" },
		"database":  func(u *url.URL) { u.Path = "/nowhere" },
		"password":  func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "not "+hiddenPassword) },
		"parameter": func(u *url.URL) { u.RawQuery = "sslmode=" + hiddenPassword },
		"unknown":   func(u *url.URL) { u.RawQuery = "nonsense=" + hiddenPassword },
		"host":      func(u *url.URL) { u.Host = "nosuchhost.invalid" },
	} {
		_, err := backfill.Open(s.t.Context(), serverURL(s.t, &pgtest.Database{URL: s.url}, change), backfill.WithLogger(s.book.logger()))
		s.fails(what, err)
	}
}
