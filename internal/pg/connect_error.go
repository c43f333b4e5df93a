package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/sqlstate"
)

// ExplainConnect says why there is no connection, where to, and what to check. The caller's ctx
// tells its end from ours; busy is the size of a pool whose connections are all in use, else 0.
func ExplainConnect(ctx context.Context, config *pgx.ConnConfig, busy int32, err error) error {
	where := fmt.Sprintf("%s, database %q, user %q", strings.Join(hosts(config), ", "), config.Database, config.User)
	if ctx.Err() != nil {
		return fmt.Errorf("connect to PostgreSQL at %s: %w", where, context.Cause(ctx))
	}
	hint, cause := diagnose(config, err)
	if errors.Is(err, context.DeadlineExceeded) && busy > 0 {
		hint = fmt.Sprintf("all %d connections of the pool were in use for %v", busy, ConnectTimeout)
	}
	if len(hosts(config)) > 1 { // the errors around the cause tell them apart
		cause = err
	}
	return fmt.Errorf("connect to PostgreSQL at %s: %w (%s)", where, cause, hint)
}

// explainReconnect adds to a running program's failure to connect what to check.
func explainReconnect(config *pgx.ConnConfig, err error) error {
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); !connecting {
		return err
	}
	hint, _ := diagnose(config, err)
	if isTLS(err) || strings.HasPrefix(sqlstate.Of(err), "28") {
		hint += "; a pool that the application made has read its password file and certificates once, " +
			"at the start: restart the process if they have changed"
	}
	return fmt.Errorf("%w (%s)", err, hint)
}

// ExplainPooler adds to an error that poolers cause what to do about it.
func ExplainPooler(err error) error {
	switch sqlstate.Of(err) {
	case sqlstate.UndefinedStatement, sqlstate.DuplicateStatement, sqlstate.ProtocolViolation:
		return fmt.Errorf("%w (%s)", err, poolerHint)
	}
	return err
}

const poolerHint = "a pooler in transaction mode loses prepared statements: add default_query_exec_mode=exec " +
	"to the connection string, or connect directly or through a pooler in session mode"

// diagnose returns what to check, and the innermost error, without the address that those around it
// repeat.
func diagnose(config *pgx.ConnConfig, err error) (hint string, cause error) {
	var pgErr *pgconn.PgError
	var dns *net.DNSError
	var op *net.OpError
	var hook *hookError
	running := fmt.Sprintf("check that PostgreSQL runs there: pg_isready -h %s -p %d", config.Host, config.Port)
	switch {
	case errors.As(err, &hook):
		return "mend that function of the pool's configuration", hook
	case errors.As(err, &pgErr):
		return refusalHint(config, pgErr.Code), pgErr
	case errors.As(err, &dns):
		return "check the host name", dns
	case isTLS(err):
		return "set sslmode and sslrootcert in the connection string to what the server has, or set up TLS there", innermost(err)
	case errors.Is(err, errReadOnly), errors.Is(err, pgconn.ErrReadOnlyConnection):
		return "connect to the primary, or wait until the database takes writes again", errReadOnly
	case errors.Is(err, context.DeadlineExceeded):
		return "nothing answered: check host, port and firewall; connect_timeout in the connection string limits " +
			"the seconds for each host", context.DeadlineExceeded
	case errors.As(err, &op):
		return running, op.Err
	default:
		return running, err
	}
}

// innermost returns the first of the errors that err has in it.
func innermost(err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
		if tries, ok := err.(interface{ Unwrap() []error }); ok {
			return innermost(tries.Unwrap()[0])
		}
	}
	return err
}

// refusalHint says what to do when the server answers and refuses.
func refusalHint(config *pgx.ConnConfig, code string) string {
	switch code {
	case "28P01", "28000":
		return "check user and password, and pg_hba.conf on the server"
	case "3D000":
		return fmt.Sprintf("create it, as in: createdb -h %s -p %d %s", config.Host, config.Port, config.Database)
	case "42704":
		return "the server refused the connection: remove the parameter from the connection string"
	case sqlstate.ProtocolViolation:
		return "the server, or a pooler before it, refused the connection: if it names a parameter, remove that " +
			"from the connection string"
	case "53300":
		return "the server has no connection left: raise max_connections, or use a pooler"
	case sqlstate.CannotConnectNow:
		return "the server is starting up or shutting down: try again"
	default:
		return "the server refused the connection"
	}
}

// isTLS recognises a server that does not do TLS, or shows a certificate that is not accepted.
func isTLS(err error) bool {
	return strings.Contains(err.Error(), "server refused TLS") || strings.Contains(err.Error(), "x509: ")
}

// hosts names every host that is tried, each once.
func hosts(config *pgx.ConnConfig) []string {
	list := []string{address(config.Host, config.Port)}
	for _, fallback := range config.Fallbacks {
		list = append(list, address(fallback.Host, fallback.Port))
	}
	return slices.Compact(list)
}

func address(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
