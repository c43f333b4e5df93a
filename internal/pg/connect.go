package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ConnectTimeout is how long a client tries to make its first connection.
const ConnectTimeout = 10 * time.Second

// minPoolConnections lets ten callers insert at a time also where there are few processors. Connections are made when needed.
const minPoolConnections = 10

// ParseURL reads a connection string. Its errors never contain it, because it contains the password.
func ParseURL(databaseURL string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	var problem string
	if err != nil {
		text := err.Error()
		text = text[strings.LastIndexByte(text, '`')+1:] // behind the connection string
		if parameter := parameterProblem.FindString(text); parameter != "" {
			return nil, fmt.Errorf("the database URL cannot be used: %s", parameter)
		}
		problem = cmp.Or(syntaxProblem.FindString(text), notConnectionString)
	} else {
		problem = misread(databaseURL, config)
	}
	if problem != "" {
		return nil, fmt.Errorf("the database URL cannot be read (%s): want postgres://user:password@host:5432/database, "+
			"with special characters of the password percent-encoded", problem)
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		config.MaxConns = max(config.MaxConns, minPoolConnections)
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "backfill"
	}
	return config, nil
}

// What pgx has against a connection string, in words that cannot quote it.
var (
	syntaxProblem = regexp.MustCompile(`invalid port|port numbers|IPv6 host address|invalid percent-encoded token|unexpected spaces|` +
		`separator "=" in URI query parameter|unterminated quoted string`)
	parameterProblem = regexp.MustCompile(`sslmode is invalid|invalid sslcertmode|unable to read CA file|unable to add CA to cert pool|` +
		`(unable to read|failed to decode) sslkey|unable to (read|load) cert|both "sslcert" and "sslkey" are required|` +
		`cannot parse (pool_[a-z_]+|(statement|description)_cache_capacity)|pool_max_conns too small|invalid connect_timeout|` +
		`unknown target_session_attrs|invalid default_query_exec_mode|unknown channel_binding|` +
		`invalid (min|max)_protocol_version|min_protocol_version cannot be greater|invalid require_auth|failed to read service`)
)

const notConnectionString = "it is not a PostgreSQL connection string"

// misread recognises strings that pgx can read, but not as they were meant, so that parts of the password are taken for names,
// which errors of ours and of the server show.
func misread(databaseURL string, config *pgxpool.Config) string {
	for name := range config.ConnConfig.RuntimeParams { // user:password@host/db?sslmode=disable is one, named up to the =
		if strings.ContainsFunc(name, notInParameter) {
			return notConnectionString
		}
	}
	_, rest, isURL := strings.Cut(databaseURL, "://")
	if !isURL || !strings.HasPrefix(databaseURL, "postgres") {
		return ""
	}
	misplaced := false
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i+1:]
	} else { // a ? of the password begins a parameter that nobody knows
		for name, value := range config.ConnConfig.RuntimeParams {
			misplaced = misplaced || strings.Contains(value, "@") && !strings.Contains(name, ".") && !slices.Contains(mayHaveAt, name)
		}
	}
	if rest, _, _ = strings.Cut(rest, "?"); misplaced || strings.Contains(rest, "@") {
		return "there is an @ behind the host: is it, or a / before it, part of the password?"
	}
	return ""
}

// mayHaveAt are the server's own parameters in whose values an @ makes sense; so it does in those of extensions, which have a dot.
var mayHaveAt = []string{"application_name", "options", "role", "search_path"}

func notInParameter(r rune) bool {
	return r != '_' && r != '.' && r != '$' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}

// EnvironmentConfigured reports whether the environment says where the database is.
func EnvironmentConfigured() bool {
	for _, name := range []string{"PGHOST", "PGSERVICE", "PGDATABASE"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
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

// ExplainConnect says why there is no connection, where to, and what to check. The caller's ctx tells its end from ours; busy is
// the size of a pool whose connections are all in use, else 0.
func ExplainConnect(ctx context.Context, config *pgx.ConnConfig, busy int32, err error) error {
	where := fmt.Sprintf("%s, database %q, user %q", addresses(config), config.Database, config.User)
	var pgErr *pgconn.PgError
	var dns *net.DNSError
	var hint string
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("connect to PostgreSQL at %s: %w", where, context.Cause(ctx))
	case errors.As(err, &pgErr):
		hint = connectHint(config, pgErr.Code)
	case errors.As(err, &dns):
		hint = "check the host name"
	case isTLS(err):
		hint = "set sslmode and sslrootcert in the connection string to what the server has, or set up TLS there"
	case errors.Is(err, context.DeadlineExceeded) && busy > 0:
		hint = fmt.Sprintf("all %d connections of the pool were in use for %v", busy, ConnectTimeout)
	case errors.Is(err, context.DeadlineExceeded):
		hint = "nothing answered: check host, port and firewall"
	default:
		hint = fmt.Sprintf("check that PostgreSQL runs there: pg_isready -h %s -p %d", config.Host, config.Port)
	}
	return fmt.Errorf("connect to PostgreSQL at %s: %w (%s)", where, rootCause(config, err), hint)
}

// isTLS recognises a server that does not do TLS, or shows a certificate that is not accepted.
func isTLS(err error) bool {
	return strings.Contains(err.Error(), "server refused TLS") || strings.Contains(err.Error(), "x509: ")
}

func connectHint(config *pgx.ConnConfig, code string) string {
	switch code {
	case "28P01", "28000":
		return "check user and password, and pg_hba.conf on the server"
	case "3D000":
		return fmt.Sprintf("create it, as in: createdb -h %s -p %d %s", config.Host, config.Port, config.Database)
	case "53300":
		return "the server has no connection left: raise max_connections, or use a pooler"
	case "57P03":
		return "the server is starting up or shutting down: try again"
	default:
		return "the server refused the connection"
	}
}

// addresses names every host that is tried, each once.
func addresses(config *pgx.ConnConfig) string {
	list := []string{address(config.Host, config.Port)}
	for _, fallback := range config.Fallbacks {
		list = append(list, address(fallback.Host, fallback.Port))
	}
	return strings.Join(slices.Compact(list), ", ")
}

func address(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// rootCause returns the innermost error: those around it repeat the address. With several addresses, they tell them apart.
func rootCause(config *pgx.ConnConfig, err error) error {
	var pgErr *pgconn.PgError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case strings.Contains(addresses(config), ", "):
		return err
	case errors.As(err, &pgErr):
		return pgErr
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &op):
		return op.Err
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case isTLS(err):
		if tries, ok := errors.AsType[interface {
			error
			Unwrap() []error
		}](err); ok {
			err = tries.Unwrap()[0]
		}
		for inner := err; inner != nil; inner = errors.Unwrap(inner) {
			err = inner
		}
	}
	return err
}
