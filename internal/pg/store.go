package pg

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/host"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Store serves one worker; it implements worker.Store.
type Store struct {
	settings Settings
	sessions *sessions
	pool     *pgxpool.Pool
	conns    connections // of the pool
	listener *sessions
	queries  *query.Queries
	tasks    []string
	resolved time.Time // when the ids of tasks were looked up
	served   atomic.Pointer[map[int32]string]
	pauses   pauses
	hidden   bool // row level security hides rows, as far as claims know
	claims   claims
	plain    claims // for claims without transactional jobs
	// transactional are the names of transactional tasks, and txs runs their jobs.
	transactional []string
	txs           *JobTransactions // nil: there are none
	traces        *traces          // nil: it does not read them
	pulse         pulse
	sweep         *sweep
	expiry        expiry
	history       map[string]time.Duration // how long attempts are kept, of the tasks of which they are
	oldest        int64                    // the job after which the deletion of old attempts goes on
	logger        *slog.Logger
	saidSlow      time.Time // when a slow claim was last logged
	forbidden     []string  // flags, of the last claim
}

var _ worker.Store = (*Store)(nil)

// resolveEvery is how often a claim looks up the ids of tasks again. They change when an operator
// deletes the names that no job has (Admin.DeleteTasks), and the next enqueue adds them again.
const resolveEvery = 5 * time.Second

// Open returns a store with a pool of its own. It connects when it is first used.
func Open(ctx context.Context, settings Settings) (*Store, error) {
	sessions := newSessions(settings)
	pool, err := pgxpool.NewWithConfig(ctx, sessions.config(sessions.prepare))
	if err != nil {
		return nil, fmt.Errorf("open worker connections: %w", err)
	}
	texts, avoided := newTexts(settings.Schema), new(avoided)
	conns := connections{pool, sessions, new(atomic.Pointer[time.Time])}
	texts.readFrom(settings.Clock)
	db := renderer{conns, texts}
	directly := func(ctx context.Context, run func(context.Context, query.DBTX) error) error { return run(ctx, db) }
	listener := sessions
	if settings.listen != nil {
		listener = newSessions(settings.listener())
	}
	store := &Store{
		settings: settings, sessions: sessions, pool: pool, conns: conns, listener: listener, queries: query.New(db),
		claims: claims{texts: texts, avoided: avoided}, plain: claims{texts: texts, avoided: avoided}, expiry: newExpiry(),
		sweep: newSweep(directly, rest, true), logger: slog.Default(),
	}
	if settings.Traces {
		store.traces = &traces{logger: func() *slog.Logger { return store.logger }, known: map[int64]bool{}}
	}
	return store, nil
}

// Close closes the connections. It must not run beside a Beat.
func (s *Store) Close() {
	s.stopPulse(context.Background())
	s.txs.close()
	ClosePool(s.pool)
}

// ClosePool closes a pool. It waits for the server's side of it no longer than a second: one that
// does not answer would take 15.
func ClosePool(pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
	}
}

// Register implements worker.Store.
func (s *Store) Register(ctx context.Context, registration worker.Registration) (err error) {
	defer func() { err = s.settings.explainWork(err) }()
	s.tasks, s.transactional, s.history = distinct(registration.Tasks), registration.Transactional, registration.History
	if err := s.addTasks(ctx); err != nil {
		return err
	}
	if err := s.queries.DeleteOldWorkers(ctx); err != nil {
		return fmt.Errorf("delete old workers: %w", err)
	}
	if _, err := s.queries.AnyCrashes(ctx); err != nil { // a role of an older version may not: better now than with each heartbeat
		return fmt.Errorf("look for crashes: %w", err)
	}
	if registration.Former != "" {
		if err := s.queries.NoteFormerWorker(ctx, registration.Former); err != nil {
			return fmt.Errorf("note that worker %s lives: %w", registration.Former, err)
		}
	}
	if err := cmp.Or(s.checkLetters(ctx), s.checkCancels(ctx), s.checkCounts(ctx), s.startHistory(ctx)); err != nil {
		return err
	}
	entries, err := json.Marshal(orNone(registration.Crontab))
	if err != nil {
		return fmt.Errorf("describe the crontab: %w", err)
	}
	hostname, _ := os.Hostname() // only informs the operator
	self := host.Self()
	err = s.queries.InsertWorker(ctx, query.InsertWorkerParams{
		ID: registration.ID, Host: hostname, Pid: int32(self.PID), Version: version(), Server: s.settings.server(), //nolint:gosec // a pid
		Machine: self.Machine, ProcessStart: self.Start, Tasks: orNone(s.tasks), Slots: int32(min(registration.Slots, math.MaxInt32)), //nolint:gosec // bounded
		DeadLetters: registration.DeadLetters, Crontab: string(entries),
	})
	if err != nil {
		return fmt.Errorf("insert worker: %w", err)
	}
	s.forget()
	if err := s.resolve(ctx); err != nil {
		return err
	}
	if err := s.readPauses(ctx); err != nil {
		return err
	}
	s.serve(nil)
	return nil
}

// Sessions implements worker.Store.
func (s *Store) Sessions() worker.Sessions {
	pooled, full := s.sessions.shared.Load(), time.Time{}
	if since := s.conns.full.Load(); since != nil {
		full = *since
	}
	return worker.Sessions{
		Pooled: pooled, Listens: !pooled || s.settings.listen != nil, Full: full,
		Server: s.settings.servers(), Database: s.settings.config.ConnConfig.Database, Schema: s.settings.Schema,
	}
}

// addTasks makes sure that every task has an id. Names are added one by one: somebody's open
// transaction may have added some of them, and to wait for it while holding another could be a
// deadlock.
func (s *Store) addTasks(ctx context.Context) error {
	for {
		ids, err := s.taskIDs(ctx)
		if err != nil || len(ids) == len(s.tasks) {
			return err
		}
		known := slices.Collect(maps.Values(ids))
		for _, name := range s.tasks {
			if slices.Contains(known, name) {
				continue
			}
			if err := s.queries.AddTasks(ctx, []string{name}); err != nil {
				return fmt.Errorf("add task name %q, which an open transaction may be adding: %w", name, err)
			}
		}
	}
}

// taskIDs looks up the ids of tasks.
func (s *Store) taskIDs(ctx context.Context) (map[int32]string, error) {
	rows, err := s.queries.TaskIDs(ctx, s.tasks)
	if err != nil {
		return nil, fmt.Errorf("read task ids: %w", err)
	}
	ids := make(map[int32]string, len(rows))
	for _, row := range rows {
		ids[row.ID] = row.Identifier
	}
	s.served.Store(&ids)
	return ids, nil
}

// Retire implements worker.Store.
func (s *Store) Retire(ctx context.Context, workerID string, clean bool) error {
	if s.traces != nil {
		s.traces.drop(ctx, s.queries)
	}
	return s.queries.RetireWorker(ctx, query.RetireWorkerParams{ID: workerID, Clean: clean})
}

// version returns the version of the program that this process runs, for operators.
func version() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	revision := ""
	for _, setting := range build.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	return strings.TrimSpace(build.Main.Version + " " + revision[:min(len(revision), 12)])
}

// server names the database that a worker works on, without secrets.
func (s Settings) server() string {
	return s.servers() + "/" + s.config.ConnConfig.Database
}

// servers names the host and port that a connection goes to, or all that it tries.
func (s Settings) servers() string {
	c := s.config.ConnConfig
	all := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, next := range c.Fallbacks { // the same host too, with and without TLS
		if name := net.JoinHostPort(next.Host, strconv.Itoa(int(next.Port))); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return strings.Join(all, ",")
}

// suspectConnections has the pool replace its connections after a statement that has got no answer
// in time: they may lead to the same dead end, and each would cost as long again. A connection that
// is being made meanwhile is left alone: the pool would drop it as soon as it is ready, and where
// that takes longer than a claim may, as with a dead host before the good one, for ever.
func (s *Store) suspectConnections(ctx context.Context) {
	if ctx.Err() != nil && s.pool.Stat().ConstructingConns() == 0 {
		s.pool.Reset()
	}
}

// refusals are the classes of errors that are about what a row holds: its data, a constraint, the
// limits of an index, and what a trigger raises. Others, such as those of a server that is
// read-only for a while, or without space, are not the row's.
var refusals = []string{"22", "23", "44", "54", "P0"}

// refused marks errors with which the server ended a statement, so that nothing was changed. A
// fatal one ends the connection, perhaps after the commit.
func refused(err error) error {
	if marked, ok := errors.AsType[*wire.RejectedError](err); ok && marked.Row {
		return err
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.SeverityUnlocalized != "ERROR" {
		return err
	}
	return &wire.RejectedError{Err: err, Row: slices.Contains(refusals, pgErr.Code[:min(2, len(pgErr.Code))])}
}

// CheckSchema implements worker.Store.
func (s *Store) CheckSchema(ctx context.Context) error {
	_, err := schema.CheckLedger(ctx, s.pool, s.settings.Schema)
	if _, breaking := errors.AsType[*schema.BreakingError](err); breaking {
		return err
	}
	return nil
}

// flagNames returns the names of the wire's flags, an object {"name": true}.
func flagNames(flags []byte) []string {
	if len(flags) == 0 {
		return nil
	}
	var set map[string]any
	if err := json.Unmarshal(flags, &set); err != nil {
		return nil // not an object: no flags
	}
	return slices.Sorted(maps.Keys(set))
}
