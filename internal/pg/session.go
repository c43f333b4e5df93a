package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/migrations"
)

// engineSession is what every connection of a worker runs with (R26). Plans: a generic plan, made while the table was empty or
// never analysed, must be the right one for a million rows, so only index scans are left to choose from. READ COMMITTED is
// stated because a role or a database may default to more, at which claims fail under contention.
const engineSession = `
set jit = off;
set enable_seqscan = off;
set enable_bitmapscan = off;
set plan_cache_mode = force_generic_plan;
set default_transaction_isolation = 'read committed';
set default_transaction_read_only = off;
set statement_timeout = '10s'`

// nudgeSession is for connections that send notifications and nothing else: nothing is lost when one is (R17).
const nudgeSession = `
set synchronous_commit = off;
set statement_timeout = '10s'`

// listenSession is for the connection that listens. Its statements are the LISTENs.
const listenSession = `
listen "` + channelJobs + `";
listen "` + channelMigrate + `";
listen "` + channelPing + `"`

// workerConnections is the size of a worker's pool: one to claim, one to record outcomes, one for upkeep. The listener has a
// connection of its own.
const workerConnections = 3

// DefaultSchema is the schema of a client that names none: Graphile Worker's default.
const DefaultSchema = migrations.DefaultSchema

// CheckSchemaName says what is wrong with a schema's name; nil if PostgreSQL takes it as it is.
func CheckSchemaName(name string) error { return migrations.CheckSchemaName(name) }

// Settings is how a client connects; a worker's connections are made from it, and never taken from the client's pool.
type Settings struct {
	config *pgx.ConnConfig
	// before changes the settings of each connection just before it is made: passwords that expire are set here.
	before func(context.Context, *pgx.ConnConfig) error
	Schema string
}

// SettingsOf returns the settings of a client's pool.
func SettingsOf(pool *pgxpool.Pool, schema string) Settings {
	config := pool.Config()
	return Settings{config: config.ConnConfig, before: config.BeforeConnect, Schema: schema}
}

// connect makes one connection with these session parameters.
func (s Settings) connect(ctx context.Context, parameters string) (*pgx.Conn, error) {
	config := s.config.Copy()
	if s.before != nil {
		if err := s.before(ctx, config); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := setSession(ctx, conn, parameters); err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// openWorkerPool makes a worker's own pool.
func (s Settings) openWorkerPool(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("configure worker connections: %w", err)
	}
	config.ConnConfig = s.config.Copy()
	config.BeforeConnect = s.before
	config.MaxConns = workerConnections
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		return setSession(ctx, conn, engineSession)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open worker connections: %w", err)
	}
	return pool, nil
}

func setSession(ctx context.Context, conn *pgx.Conn, settings string) error {
	// The simple protocol takes several statements in one round trip.
	if _, err := conn.PgConn().Exec(ctx, settings).ReadAll(); err != nil {
		return fmt.Errorf("set session parameters: %w", err)
	}
	return nil
}
