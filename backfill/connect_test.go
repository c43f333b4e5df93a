package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

const secret = "s3cr3t"

// peer is a port at which something answers in its own way.
func peer(t *testing.T, answer func(net.Conn)) (port string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return port
}

// serverURL returns the database's URL with changes, and skips the test where it is not one.
func serverURL(t *testing.T, db *pgtest.Database, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(db.URL)
	if err != nil || u.Scheme == "" {
		t.Skip("the test server has no URL of one host")
	}
	change(u)
	return u.String()
}

// What cannot be connected to is an error with the reason, host and database, and what to check;
// the password is never in it.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	closed, hangsUp := dbtest.ClosedPort(t), peer(t, func(c net.Conn) { c.Close() })
	chatty := peer(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n"); c.Close() })
	plain := peer(t, func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 8)); _, _ = io.WriteString(c, "N"); c.Close() })
	silent := peer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() })
	at := func(port string) string { return "127.0.0.1:" + port }
	tests := map[string]struct {
		url  string
		want []string
	}{
		"refused": {
			"postgres://app:s3cr3t@" + at(closed) + "/shop",
			[]string{at(closed), `database "shop", user "app"`, "connection refused", "pg_isready -h 127.0.0.1 -p " + closed},
		},
		"keywords": {
			"host=127.0.0.1 port=" + closed + " user=app password='s3cr3t' dbname=shop",
			[]string{at(closed), `database "shop"`, "connection refused"},
		},
		"name": {
			"postgres://app:s3cr3t@nosuchhost.invalid/shop",
			[]string{"nosuchhost.invalid:5432", `database "shop"`, "check the host name"},
		},
		"socket": {
			"postgres://app:s3cr3t@/shop?host=/nowhere/s0cket",
			[]string{"at /nowhere/s0cket, ", `database "shop"`, "no such file", "pg_isready -h /nowhere/s0cket"},
		},
		"hangs up":  {"postgres://app:s3cr3t@" + at(hangsUp) + "/shop", []string{at(hangsUp), `database "shop"`, "check that PostgreSQL runs there"}},
		"not ours":  {"postgres://app:s3cr3t@" + at(chatty) + "/shop?sslmode=disable", []string{at(chatty), `database "shop"`, "check that PostgreSQL runs there"}},
		"silent":    {"postgres://app:s3cr3t@" + at(silent) + "/shop?connect_timeout=1", []string{at(silent), "nothing answered: check host, port and firewall"}},
		"two hosts": {"postgres://app:s3cr3t@" + at(closed) + "," + at(hangsUp) + "/shop", []string{at(closed) + ", " + at(hangsUp), `database "shop"`, "refused"}},
		"no TLS":    {"postgres://app:s3cr3t@" + at(plain) + "/shop?sslmode=require", []string{`user "app": server refused TLS connection (set sslmode`}},
		"in query":  {"postgres://" + at(closed) + "/shop?user=app&password=s3cr3t", []string{at(closed), `user "app"`, "refused"}},
		"encoded":   {"postgres://app:s3cr3t%40%2F%3A%3F%23@" + at(closed) + "/shop", []string{at(closed), `database "shop"`, "refused"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var book logBook
			_, err := backfill.Open(t.Context(), test.url, backfill.WithLogger(book.logger()))
			for _, want := range append(test.want, "open client: connect to PostgreSQL at ") {
				wantError(t, err, want)
			}
			wantSecret(t, secret, fmt.Sprintf("%v %+v %q", err, err, err), book.String())
		})
	}
}

// The server answers, and says no.
func TestRefusedByTheServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	name := get[string](t, db.Pool(), "select current_database()")
	tests := map[string]struct {
		change func(*url.URL)
		want   []string
	}{
		"password": {
			func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), secret) },
			[]string{`database "` + name + `"`, "password authentication failed", "SQLSTATE 28P01", "check user and password, and pg_hba.conf"},
		},
		"role": {
			func(u *url.URL) { u.User = url.UserPassword("nobody_here", secret) },
			[]string{`user "nobody_here"`, "authentication failed", "check user and password"},
		},
		"database": {
			func(u *url.URL) { u.Path = "/nowhere" },
			[]string{`database "nowhere" does not exist`, "SQLSTATE 3D000", "create it, as in: createdb -h "},
		},
		"parameter": {
			func(u *url.URL) { u.RawQuery = "sslmode=disable&no_such_parameter=1" },
			[]string{`unrecognized configuration parameter "no_such_parameter"`, "the server refused the connection"},
		},
		"TLS": {
			func(u *url.URL) { u.RawQuery = "sslmode=require" },
			[]string{"TLS", `database "` + name + `"`},
		},
		"two hosts": {
			func(u *url.URL) { u.Host, u.Path = "127.0.0.1:"+dbtest.ClosedPort(t)+","+u.Host, "/nowhere" },
			[]string{"connection refused", `database "nowhere" does not exist`, ", 127.0.0.1:"},
		},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var password string
			address := serverURL(t, db, func(u *url.URL) {
				test.change(u)
				password, _ = u.User.Password()
			})
			if conn, err := pgx.Connect(t.Context(), address); err == nil {
				conn.Close(t.Context())
				t.Skip("the test server takes that")
			}
			var book logBook
			_, opening := backfill.Open(t.Context(), address, backfill.WithLogger(book.logger()))
			pool := poolOf(t, address, func(*pgxpool.Config) {})
			_, making := backfill.NewClient(t.Context(), pool, backfill.WithLogger(book.logger()))
			for _, want := range test.want {
				wantError(t, opening, want)
				wantError(t, making, want)
			}
			if password != "" {
				wantSecret(t, password, opening.Error(), making.Error(), book.String())
			}
		})
	}
}

// A URL that cannot be read, or not as it was meant, is told without any part of it.
func TestBadURL(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ url, want string }{
		"port":               {"postgres://app:s3cr3t@db.service:54x2/shop", "(its host, port or parameters cannot be told apart"},
		"password with :@":   {"postgres://app:a:s3cr3t@b@db/shop", "(there is an @ after the host"},
		"password with @":    {"postgres://app:a@s3cr3t@db/shop", "(there is an @ after the host"},
		"password with /":    {"postgres://app:s3cr3t/x@db/shop", "(its host, port or parameters cannot be told apart"},
		"with number and /":  {"postgres://app:12/s3cr3t@db/shop", "(there is an @ after the host"},
		"? and @":            {"postgres://app:a?@s3cr3t@db/shop", "(there is an @ after the host"},
		"query":              {"postgres://db:12?s3cr3t", "(its host, port or parameters cannot be told apart"},
		"password with %":    {"postgres://app:s3cr3t%zz@db/shop", "(there is a % that begins no percent-encoded character)"},
		"password with [":    {"postgres://app:[s3cr3t/@db/shop", "cannot be read ("},
		"space":              {"postgres://app:a s3cr3t@db/shop", "(there is a space in it)"},
		"NUL":                {"postgres://app:s3cr3t\x00@db/shop", "(it is not a PostgreSQL connection string)"},
		"backtick":           {"postgres://app:`s3cr3t`@db:x`y/shop", "cannot be read ("},
		"other scheme":       {"mysql://app:s3cr3t@db/shop", "(it is not a PostgreSQL connection string)"},
		"scheme and =":       {"mysql://app:s3cr3t=x@db/shop", "(it is not a PostgreSQL connection string)"},
		"jdbc":               {"jdbc:postgresql://db/shop?user=app&password=s3cr3t", "(its scheme is another driver's"},
		"no scheme":          {"app:s3cr3t@db/shop", "(it is not a PostgreSQL connection string)"},
		"no scheme, options": {"app:s3cr3t@db/shop?sslmode=disable", "(it is not a PostgreSQL connection string)"},
		"keywords":           {"host=db password=my s3cr3t", "(it is not a list of keyword=value"},
		"keywords, quotes":   {"host=db password='s3cr3t", "(it is not a list of keyword=value"},
		"sslmode":            {"postgres://app:s3cr3t@db/shop?sslmode=maybe", ": sslmode must be disable, allow, prefer, require, verify-ca or verify-full"},
		"CA file":            {"postgres://app:s3cr3t@db/shop?sslmode=verify-full&sslrootcert=/nowhere/ca", ": sslrootcert must be a file of certificates, or system (open: no such file or directory)"},
		"pool size":          {"postgres://app:s3cr3t@db/shop?pool_max_conns=many", ": pool_max_conns must be a whole number from 1 on"},
		"connect_timeout":    {"postgres://app:s3cr3t@db/shop?connect_timeout=soon", ": connect_timeout must be a whole number of seconds"},
		"service":            {"postgres://app:s3cr3t@db/shop?service=nosuch&servicefile=/nowhere", ": service must be a service in the file of servicefile or PGSERVICEFILE"},
		"ports":              {"postgres://app:s3cr3t@a:1,b:2,c/shop?port=1,2", ": port must be one port number, or one for each host"},
		"exec mode":          {"postgres://app:s3cr3t@db/shop?default_query_exec_mode=x", ": default_query_exec_mode must be cache_statement, "},
		"no connections":     {"postgres://app:s3cr3t@db/shop?pool_max_conns=0", ": pool_max_conns must be a whole number from 1 on"},
		"/ and ?":            {"postgres://app:/s3cr3t?s3cr3t=x@db/shop", "(there is an @ after the host"},
		"attributes":         {"postgres://app:s3cr3t@db/shop?target_session_attrs=x", ": target_session_attrs must be any, read-write, "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := backfill.Open(t.Context(), test.url)
			wantError(t, err, "open client: the database URL cannot be ")
			wantError(t, err, test.want)
			syntax := strings.Contains(err.Error(), "want postgres://user:password@host:5432/database, with special characters of the password percent-encoded")
			if syntax == strings.HasPrefix(test.want, ":") {
				t.Errorf("it says how URLs are written: %t: %v", syntax, err)
			}
			for part := err; part != nil; part = errors.Unwrap(part) {
				wantSecret(t, secret, fmt.Sprintf("%+v %#v", part, part))
			}
		})
	}
}

// Names with an @ that is encoded, or stands in a parameter, are fine.
func TestURLsThatAreFine(t *testing.T) {
	t.Parallel()
	closed := dbtest.ClosedPort(t)
	for _, address := range []string{
		"postgres://me%40corp:s3cr3t@127.0.0.1:" + closed + "/shop%40home",
		"postgres://127.0.0.1:" + closed + "/shop?user=me@corp&application_name=a@b&my.setting=x",
		"postgres://127.0.0.1:" + closed + "/shop?my.setting=a@b&options=-c%20my.setting%3Da@b",
		"postgresql://127.0.0.1:" + closed + "/shop",
		"postgres://app:s3?cr:3t#@127.0.0.1:" + closed + "/shop",
		"host=127.0.0.1 port=" + closed + " dbname=shop@home password='a@/b' search_path=x",
	} {
		_, err := backfill.Open(t.Context(), address)
		wantError(t, err, "connection refused")
	}
}

func TestConnectWithContextsThatEnd(t *testing.T) {
	t.Parallel()
	silent := peer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() })
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("told to stop")
	cancel(stop)
	_, err := backfill.Open(ctx, "postgres://app:s3cr3t@127.0.0.1:"+silent+"/shop")
	if !errors.Is(err, stop) || strings.Contains(err.Error(), "check") {
		t.Errorf("got %v", err)
	}
}

// A pool that is used up is not the server's fault.
func TestConnectWithABusyPool(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, pgtest.WithPoolSize(1)).Pool()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	wantError(t, backfill.ExplainConnect(t.Context(), pool, context.DeadlineExceeded), "all 1 connections of the pool were in use")
}

// Whatever pgx wraps its errors in.
func TestConnectErrorsOfManyShapes(t *testing.T) {
	t.Parallel()
	one := poolOf(t, "postgres://app:s3cr3t@db/shop", func(*pgxpool.Config) {})
	two := poolOf(t, "postgres://app:s3cr3t@db,db2:1/shop", func(*pgxpool.Config) {})
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connect: connection refused")}
	denied := &pgconn.PgError{Severity: "FATAL", Message: "denied", Code: "28000"}
	_, parsing := pgconn.ParseConfig("postgres://app:s3cr3t@db:x/shop")
	for _, err := range []error{
		refused, denied, errors.Join(refused, denied), fmt.Errorf("dial: %w", refused), &pgconn.ConnectError{Config: &one.Config().ConnConfig.Config},
		fmt.Errorf("hook: %w", parsing), context.DeadlineExceeded, io.ErrUnexpectedEOF, pgconn.ErrConnClosed,
		&net.DNSError{Err: "no such host", Name: "db", IsNotFound: true},
	} {
		for _, pool := range []*pgxpool.Pool{one, two} {
			if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok && connect.Unwrap() == nil {
				continue // cannot be printed
			}
			explained := backfill.ExplainConnect(t.Context(), pool, err)
			wantError(t, explained, `database "shop", user "app"`)
			wantSecret(t, secret, explained.Error())
		}
	}
	wantError(t, backfill.ExplainConnect(t.Context(), two, errors.Join(refused, denied)), "db:5432, db2:1, ")
}

// Run is configured by the environment alone. Its tests change it, so they do not run in parallel
// with others.
func TestRunByTheEnvironment(t *testing.T) {
	db := pgtest.New(t)
	for _, name := range []string{"DATABASE_URL", "PGHOST", "PGSERVICE", "PGDATABASE", "PGPASSWORD", "PGUSER", "PGPORT", "PGSSLMODE"} {
		t.Setenv(name, "")
	}
	ran := 0
	task, registry := taskOf("send_email", func(context.Context, mailArgs) error { ran++; return nil })
	_, err := backfill.RunOnce(t.Context(), registry)
	wantError(t, err, "run: no database is configured: set DATABASE_URL=postgres://user:password@host:5432/database, or PGHOST")
	t.Setenv("PGPORT", "1") // where nobody is
	_, err = backfill.Open(t.Context(), "")
	wantError(t, err, "; the database URL was empty: set DATABASE_URL=postgres://user:password@host:5432/database, or PGHOST")
	err = backfill.Run(t.Context(), backfill.NewRegistry(backfill.Require("Handlers.Mailer", false)), backfill.WithConcurrency(0),
		backfill.WithSchema(""), backfill.WithLogger(nil))
	for _, want := range []string{
		"no database is configured", "Handlers.Mailer is required", "WithConcurrency: 0", "WithSchema: ", "WithLogger: the logger is nil",
	} {
		wantError(t, err, want)
	}
	if n := strings.Count(err.Error(), "WithLogger"); n > 1 {
		t.Errorf("WithLogger is reported %d times: %v", n, err)
	}

	client := newClient(t, db)
	enqueue(t, client, task, mailArgs{})
	t.Setenv("DATABASE_URL", db.URL)
	report, err := backfill.RunOnce(t.Context(), registry, backfill.WithLogger(quiet))
	if err != nil || report.Completed != 1 || ran != 1 {
		t.Errorf("DATABASE_URL: %+v, %v, ran %d", report, err, ran)
	}

	config := db.Pool().Config().ConnConfig
	t.Setenv("DATABASE_URL", "")
	t.Setenv("PGHOST", config.Host)
	t.Setenv("PGPORT", fmt.Sprint(config.Port))
	t.Setenv("PGUSER", config.User)
	t.Setenv("PGPASSWORD", config.Password)
	t.Setenv("PGDATABASE", config.Database)
	t.Setenv("PGSSLMODE", "prefer")
	enqueue(t, client, task, mailArgs{})
	ctx, cancel := context.WithCancel(t.Context())
	err = backfill.Run(ctx, registry, backfill.WithLogger(quiet), backfill.WithObserver(func(e backfill.Event) {
		if e.Kind == backfill.EventCompleted {
			cancel()
		}
	}))
	if err != nil || ran != 2 {
		t.Errorf("PG*: %v, ran %d", err, ran)
	}
	t.Setenv("PGPORT", dbtest.ClosedPort(t))
	t.Setenv("PGHOST", "127.0.0.1")
	t.Setenv("PGPASSWORD", secret)
	_, err = backfill.RunOnce(t.Context(), registry, backfill.WithLogger(quiet))
	wantError(t, err, `database "`+config.Database+`"`)
	wantSecret(t, secret, err.Error())
}

func TestRunWithClient(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task, registry := taskOf("send_email", ignore)
	enqueue(t, client, task, mailArgs{})
	report, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client), backfill.WithLogger(quiet), backfill.WithConcurrency(2))
	if err != nil || report.Completed != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	enqueue(t, client, task, mailArgs{}) // the client is open
	_, err = backfill.RunOnce(t.Context(), registry, backfill.WithClient(nil))
	wantError(t, err, "WithClient: the client is nil")
	err = backfill.Run(t.Context(), nil, backfill.WithClient(client), backfill.WithSchema("other"), backfill.WithMigrations(backfill.MigrateVerify))
	wantError(t, err, "options for a new client do not apply to one that exists")
	wantError(t, err, "registry is nil")
}
