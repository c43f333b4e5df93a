package pg

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/migrations"
)

// workerConnections is the size of a worker's pool: one to claim, one to record outcomes, one for
// upkeep, and one to count what has ended, so that none of these waits for another. The listener has
// a connection of its own.
const workerConnections = 4

// sessionTimeout limits each step of making a session of our own: the application's hooks, the
// attempt at one address, and our settings.
const sessionTimeout = 5 * time.Second

// DefaultSchema is the schema of a client that names none: Graphile Worker's default.
const DefaultSchema = migrations.DefaultSchema

// CheckSchemaName says what is wrong with a schema's name; nil if PostgreSQL takes it as it is.
func CheckSchemaName(name string) error { return migrations.CheckSchemaName(name) }

// Settings is how a client connects. Connections of workers and of notifications are made from it,
// and never taken from the client's pool.
type Settings struct {
	Schema string
	// Logger is told when the server's clock differs from ours. nil: nobody is.
	Logger *slog.Logger
	// Tracer sees the statements of sessions of our own, which the pool's tracer does not: an idle
	// worker would be most of what it sees. nil: nobody does.
	Tracer pgx.QueryTracer
	// Traces makes a worker's store read the trace contexts of the jobs that it claims, and keep those
	// of runs.
	Traces bool
	// Clock is the schema of the functions that statements read the time from, for tests that move
	// it. "": PostgreSQL's own.
	Clock string

	config *pgxpool.Config
	listen *pgxpool.Config // nil: listeners connect as all others do
}

// SettingsOf returns the settings of a client's pool.
func SettingsOf(pool *pgxpool.Pool, schema string) Settings {
	return Settings{Schema: schema, config: pool.Config()}
}

// ListenAt makes listeners connect by another connection string, which leads around a pooler.
func (s *Settings) ListenAt(databaseURL string) (err error) {
	s.listen, err = PoolConfig(databaseURL)
	return err
}

// listener returns the settings of listeners.
func (s Settings) listener() Settings {
	if s.listen != nil {
		s.config, s.Logger = s.listen, nil // of the clock, the other connections tell
	}
	return s
}

// own returns the pool's configuration for sessions of our own. How to connect is the
// application's: TLS, dialling, names, life times, BeforeConnect, and AfterConnect, which may set
// the role. What reacts to its own use of the pool is left out: handlers, tracers, and the hooks
// around each use. after is called last for each new connection.
func (s Settings) own(after func(context.Context, *pgx.Conn) error) *pgxpool.Config {
	config := s.config.Copy()
	before, connected := config.BeforeConnect, config.AfterConnect
	limitConnecting(config.ConnConfig)
	config.ConnConfig.Tracer = s.Tracer // the pool itself looks at it
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if before != nil {
			err := tryNamed(ctx, "BeforeConnect", func(ctx context.Context) error { return before(ctx, c) })
			if err != nil {
				return err
			}
		}
		guardHooks(ctx, c)
		c.Tracer = s.Tracer
		if c.ConnectTimeout <= 0 || c.ConnectTimeout > sessionTimeout {
			c.ConnectTimeout = sessionTimeout
		}
		replaceUseless(c)
		closeQuickly(c)
		return nil
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
		defer cancel()
		if connected != nil {
			err := tryNamed(ctx, "AfterConnect", func(ctx context.Context) error { return connected(ctx, conn) })
			if err != nil {
				return err
			}
		}
		return after(ctx, conn)
	}
	config.PrepareConn, config.AfterRelease = nil, nil
	config.BeforeAcquire = nil //nolint:staticcheck // deprecated, and in use
	config.BeforeClose = func(conn *pgx.Conn) { closeConn(context.Background(), conn) }
	config.ShouldPing, config.PingTimeout = nil, pingTimeout
	config.MinConns, config.MinIdleConns, config.MaxConns = 0, 0, workerConnections
	return config
}

// connectOwn makes a single connection as a pool of this configuration would.
func connectOwn(ctx context.Context, config *pgxpool.Config) (*pgx.Conn, error) {
	connConfig := config.ConnConfig.Copy()
	if err := config.BeforeConnect(ctx, connConfig); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return nil, explainReconnect(connConfig, err)
	}
	if err := config.AfterConnect(ctx, conn); err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// Connect makes a connection on which the index on queues is built, with a session that is not
// shared. The build sets what it needs.
func (s Settings) Connect(ctx context.Context) (*pgx.Conn, error) {
	sessions := newSessions(s)
	return connectOwn(ctx, s.own(func(ctx context.Context, conn *pgx.Conn) error {
		shared, err := sessions.areShared(ctx, conn)
		if shared {
			return errShared
		}
		return err
	}))
}

// sessions makes the sessions of one worker.
type sessions struct {
	settings Settings
	clock    clock
	// unshared is true once a pooler was seen to give each connection a session of its own, and
	// shared once one was seen to share them. Then every statement is sent as a transaction that
	// states its own settings, which is right over any connection.
	unshared, shared atomic.Bool
}

func newSessions(settings Settings) *sessions {
	return &sessions{settings: settings, clock: clock{logger: settings.Logger}}
}

// config is how connections of the worker are made.
func (s *sessions) config(after func(context.Context, *pgx.Conn) error) *pgxpool.Config {
	config := s.settings.own(after)
	before := config.BeforeConnect
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if s.shared.Load() && !unnamed(c) {
			c.DefaultQueryExecMode = pgx.QueryExecModeExec
		}
		return before(ctx, c)
	}
	return config
}

// unnamed reports whether a connection sends its statements without preparing them, which works in
// sessions that are shared, whatever the pooler knows about prepared statements.
func unnamed(c *pgx.ConnConfig) bool {
	return c.DefaultQueryExecMode == pgx.QueryExecModeExec || c.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol
}

// errNowShared ends a connection that was made before sessions were known to be shared, and would
// prepare statements. The next one does not.
var errNowShared = errors.New("the sessions are shared, so statements cannot be prepared: connect again")

// connect makes a connection of the worker's apart from its pool.
func (s *sessions) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := connectOwn(ctx, s.config(s.prepare))
	if errors.Is(err, errNowShared) {
		conn, err = connectOwn(ctx, s.config(s.prepare))
	}
	return conn, err
}

// connectListener makes a connection whose session is its own.
func (s *sessions) connectListener(ctx context.Context) (*pgx.Conn, error) {
	config := s.config(func(ctx context.Context, conn *pgx.Conn) error {
		shared, err := s.areShared(ctx, conn)
		switch {
		case err != nil:
			return err
		case shared:
			return errShared
		}
		return s.state(ctx, conn, engineSession)
	})
	before := config.BeforeConnect
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		err := before(ctx, c)
		c.OnNotification = nil // pgx then keeps notifications for WaitForNotification
		return err
	}
	return connectOwn(ctx, config)
}

// prepare makes a new connection a worker's. A session that belongs to the connection gets the
// settings. One that is shared is not changed: each transaction states them (transactions).
func (s *sessions) prepare(ctx context.Context, conn *pgx.Conn) error {
	shared, err := s.areShared(ctx, conn)
	switch {
	case err != nil:
		return err
	case !shared:
		return s.state(ctx, conn, engineSession)
	case !unnamed(conn.Config()):
		return errNowShared
	}
	return s.state(ctx, conn, engineTransaction)
}
