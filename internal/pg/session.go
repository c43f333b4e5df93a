package pg

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/migrations"
)

// workerConnections is the size of a worker's pool: one to claim, one to record outcomes, one for
// upkeep. The listener has a connection of its own.
const workerConnections = 3

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

	config *pgxpool.Config
}

// SettingsOf returns the settings of a client's pool.
func SettingsOf(pool *pgxpool.Pool, schema string) Settings {
	return Settings{Schema: schema, config: pool.Config()}
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
	return connectOwn(ctx, s.own(newSessions(s).checkShared))
}

// sessions makes the sessions of one worker.
type sessions struct {
	settings Settings
	clock    clock
	// unshared is true once a pooler was seen to give each connection a session of its own.
	unshared atomic.Bool
}

func newSessions(settings Settings) *sessions {
	return &sessions{settings: settings, clock: clock{logger: settings.Logger}}
}

// connect makes a connection of its own, for the listener.
func (s *sessions) connect(ctx context.Context) (*pgx.Conn, error) {
	config := s.settings.own(s.prepare)
	before := config.BeforeConnect
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		err := before(ctx, c)
		c.OnNotification = nil // pgx then keeps notifications for WaitForNotification
		return err
	}
	return connectOwn(ctx, config)
}

// prepare makes a new connection's session a worker's: first it makes sure that the session
// belongs to the connection, then it states the settings.
func (s *sessions) prepare(ctx context.Context, conn *pgx.Conn) error {
	if err := s.checkShared(ctx, conn); err != nil {
		return err
	}
	return s.state(ctx, conn)
}
