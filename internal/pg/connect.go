package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/sqlstate"
)

// ConnectTimeout is how long a client tries to make its first connection.
const ConnectTimeout = 10 * time.Second

const (
	// hostTimeout limits the attempt at one address, unless connect_timeout says something else.
	hostTimeout = 3 * time.Second
	// pingTimeout is how long a pooled connection may take to prove that it is alive.
	pingTimeout = 3 * time.Second
	// closeTimeout limits what is sent to a server before a connection to it is dropped.
	closeTimeout = time.Second
)

// EnvironmentConfigured reports whether the environment says where the database is.
func EnvironmentConfigured() bool {
	return cmp.Or(os.Getenv("PGHOST"), os.Getenv("PGSERVICE"), os.Getenv("PGDATABASE")) != ""
}

// Connect makes one connection to the database of a connection string, for a command.
func Connect(ctx context.Context, databaseURL string) (*pgx.Conn, error) {
	config, err := ParseURL(databaseURL)
	if err != nil {
		return nil, err
	}
	connecting, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, config.ConnConfig)
	if err != nil {
		return nil, ExplainConnect(ctx, config.ConnConfig, 0, err)
	}
	return conn, nil
}

// PoolConfig reads a connection string for the pool of a client. The pool passes over servers that
// take no writes, drops connections that have become useless, and reads the files that the string
// names again for each connection.
func PoolConfig(databaseURL string) (*pgxpool.Config, error) {
	config, err := ParseURL(databaseURL)
	if err != nil {
		return nil, err
	}
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		readAgain(c)
		closeQuickly(c)
		return nil
	}
	replaceUseless(config.ConnConfig)
	if config.PingTimeout <= 0 {
		config.PingTimeout = pingTimeout
	}
	return config, nil
}

// ReaderConfig is PoolConfig for connections that only read, such as operators': they may lead to a
// standby, if the URL has one host, or allows it by target_session_attrs.
func ReaderConfig(databaseURL string) (*pgxpool.Config, error) {
	config, err := PoolConfig(databaseURL)
	if err == nil && len(hosts(config.ConnConfig)) == 1 {
		parsed, err := ParseURL(databaseURL)
		if err != nil {
			return nil, err
		}
		config.ConnConfig.ValidateConnect = parsed.ConnConfig.ValidateConnect
	}
	return config, err
}

// limitConnecting gives each address its time: as connect_timeout says, else so that all are tried
// within ConnectTimeout. pgx has no limit for looking up names.
func limitConnecting(c *pgx.ConnConfig) {
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = min(hostTimeout, ConnectTimeout*9/10/time.Duration(len(hosts(c))))
	}
	lookup, limit := c.LookupFunc, c.ConnectTimeout
	c.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return lookup(ctx, host)
	}
}

// readAgain reads the files that a connection string names: certificates, keys and passwords may
// have been replaced. What cannot be read now stays as it was, and so does everything if the
// environment has changed meanwhile.
func readAgain(c *pgx.ConnConfig) {
	fresh, err := pgx.ParseConfig(c.ConnString())
	if err != nil || !slices.Equal(hosts(fresh), hosts(c)) || fresh.User != c.User {
		return
	}
	c.TLSConfig, c.Fallbacks = fresh.TLSConfig, fresh.Fallbacks
	if fresh.Password != "" {
		c.Password = fresh.Password
	}
}

// replaceUseless makes connections skip servers that take no writes, and end when an error says
// that they have become useless. A pool replaces a connection that has ended.
func replaceUseless(c *pgx.ConnConfig) {
	if c.ValidateConnect == nil { // target_session_attrs sets it
		c.ValidateConnect = takesWrites
	}
	c.OnPgError = keep
}

var errReadOnly = errors.New("the server takes no writes: it is a standby, or default_transaction_read_only is on")

// takesWrites makes pgx try the next address if a server takes no writes.
func takesWrites(ctx context.Context, conn *pgconn.PgConn) error {
	err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
	if errors.Is(err, pgconn.ErrReadOnlyConnection) {
		return errReadOnly
	}
	return err
}

// keep reports whether a connection is of use after an error. It is not after a fatal error, on a
// server that has become read-only or a standby, and when it has lost its prepared statements.
func keep(_ *pgconn.PgConn, err *pgconn.PgError) bool {
	switch err.Code {
	case sqlstate.ReadOnlyTransaction, sqlstate.UndefinedStatement,
		sqlstate.AdminShutdown, sqlstate.CrashShutdown, sqlstate.CannotConnectNow:
		return false
	}
	severity := err.SeverityUnlocalized
	if severity == "" {
		severity = err.Severity
	}
	return !strings.EqualFold(severity, "FATAL")
}

// closeQuickly changes the settings of one connection. When a connection breaks, pgx asks the
// server to cancel the statement, waits for 15 s, and only then frees the connection's place in
// the pool. A server that does not answer must not keep a pool full for that long.
func closeQuickly(c *pgx.ConnConfig) {
	var connected atomic.Bool
	dial, after := c.DialFunc, c.AfterConnect
	c.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		connected.Store(true)
		if after != nil {
			return after(ctx, conn)
		}
		return nil
	}
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if !connected.Load() {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return hurriedConn{conn}, nil
		}
		ctx, cancel := context.WithTimeout(ctx, closeTimeout) // a request to cancel
		defer cancel()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn, conn.SetDeadline(time.Now().Add(closeTimeout))
	}
}

// hurriedConn brings deadlines forward. pgx sets one in the future only while it closes.
type hurriedConn struct{ net.Conn }

func (c hurriedConn) SetDeadline(t time.Time) error {
	if latest := time.Now().Add(closeTimeout); t.After(latest) {
		t = latest
	}
	return c.Conn.SetDeadline(t)
}

// closeConn closes a connection politely, also when ctx has ended.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx) // the server notices by itself
}

// CheckEncoding reports sessions of an application's pool that do not speak UTF-8, as pgx does: the
// server would store other characters than those that were sent.
func CheckEncoding(conn *pgx.Conn) error {
	switch encoding := conn.PgConn().ParameterStatus("client_encoding"); encoding {
	case "UTF8", "SQL_ASCII", "":
		return nil
	default:
		return fmt.Errorf("the pool's sessions have client_encoding %s, but pgx sends UTF-8: "+
			"add client_encoding=UTF8 to its connection string", encoding)
	}
}
