package backfill_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// URLs as secrets arrive and as other programs write them work, or the error names all that has to
// go.
func TestURLsOfOthers(t *testing.T) {
	t.Parallel()
	closed := dbtest.ClosedPort(t)
	const refused = "connection refused"
	plain := "postgres://app:s3cr3t@127.0.0.1:" + closed + "/shop"
	for name, test := range map[string]struct {
		url  string
		want []string
	}{
		"newline":       {plain + "\n", []string{`database "shop"`, refused}},
		"CRLF":          {plain + "?sslmode=disable\r\n", []string{`database "shop"`, refused}},
		"spaces":        {"\t " + plain + "  ", []string{`database "shop"`, refused}},
		"double quotes": {"\"" + plain + "\"\n", []string{`database "shop"`, refused}},
		"single quotes": {"'" + plain + "'", []string{`database "shop"`, refused}},
		"backticks":     {"`" + plain + "`", []string{`database "shop"`, refused}},
		"upper case":    {"POSTGRES" + strings.TrimPrefix(plain, "postgres"), []string{`database "shop"`, refused}},
		"quoted list":   {"\"host=127.0.0.1 port=" + closed + " dbname=shop password='s3cr3t'\"", []string{`database "shop"`, refused}},
		"Prisma": {
			plain + "?schema=public&connection_limit=5&pgbouncer=true&sslmode=disable&pool_timeout=2",
			[]string{": remove the parameters of other drivers", ": connection_limit (instead: pool_max_conns), pgbouncer (instead: default_query_exec_mode=exec), pool_timeout, schema"},
		},
		"Node":           {plain + "?sslmode=no-verify", []string{": sslmode must be disable, allow, prefer, require, verify-ca or verify-full"}},
		"Node, ssl":      {plain + "?ssl=false&uselibpqcompat=true", []string{": ssl (instead: sslmode), uselibpqcompat (instead: sslmode)"}},
		"JDBC":           {"jdbc:postgresql://127.0.0.1:" + closed + "/shop?user=app&password=s3cr3t", []string{"its scheme is another driver's"}},
		"JDBC, pasted":   {plain + "?currentSchema=x&prepareThreshold=0", []string{"currentSchema (instead: search_path), prepareThreshold"}},
		"SQLAlchemy":     {"postgresql+psycopg" + strings.TrimPrefix(plain, "postgres"), []string{"its scheme is another driver's"}},
		"golang-migrate": {"pgx5" + strings.TrimPrefix(plain, "postgres") + "?x-migrations-table=foo", []string{"its scheme is another driver's"}},
		"x-migrations":   {plain + "?x-migrations-table=a&x-migrations-table-quoted=1", []string{": x-migrations-…"}},
		"libpq":          {plain + "?keepalives=1&tcp_user_timeout=1000", []string{": keepalives, tcp_user_timeout"}},
		"two mistakes":   {plain + "?sslmode=yes&connect_timeout=5s", []string{"sslmode must be ", "; connect_timeout must be "}},
		"sslkey alone":   {plain + "?connect_timeout=2&sslkey=/nowhere/key", []string{"sslkey must be a file, together with sslcert"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := backfill.Open(t.Context(), test.url)
			for _, want := range test.want {
				wantError(t, err, want)
			}
			wantSecret(t, secret, fmt.Sprintf("%v %+v", err, err))
		})
	}
}

// A variable that is not valid is named, and not taken for a mistake in the URL.
func TestBadEnvironment(t *testing.T) {
	t.Setenv("PGSSLMODE", secret)
	_, err := backfill.Open(t.Context(), "postgres://app@127.0.0.1:"+dbtest.ClosedPort(t)+"/shop")
	wantError(t, err, "the environment has a value that is not valid, in one of ")
	wantError(t, err, "PGSSLMODE")
	wantSecret(t, secret, err.Error())
}

// Whatever character a password has, at whatever place, and however the URL is written: no error
// shows it.
func TestPasswordsAreNeverShown(t *testing.T) {
	t.Parallel()
	closed := dbtest.ClosedPort(t)
	for _, special := range []string{
		"@", "/", "?", "#", ":", "%", "&", "=", " ", "+", "[", "]", "\\", "`", "'", "\"", "\n", "\t", "$", "{", "}", "<", ">", "|", "^",
		"ü", "\x00", ";", ",", "@/", "/@", "?@", "#@", "%zz", "%40", ":@", "@:", "//", "://", "?schema=", "&schema=", "?x-migrations-", "&ssl=", "?sslmode=",
	} {
		for _, password := range []string{special + secret, secret + special, "s3" + special + secret} {
			for _, address := range []string{
				"postgres://app:" + password + "@127.0.0.1:" + closed + "/shop",
				"\"postgres://app:" + password + "@127.0.0.1:" + closed + "/shop?sslmode=disable\"",
				"host=127.0.0.1 port=" + closed + " user=app password=" + password + " dbname=shop",
				"host=127.0.0.1 port=" + closed + " user=app password='" + password + "' dbname=shop",
				"postgresql://127.0.0.1:" + closed + "/shop?user=app&password=" + password,
				"app:" + password + "@127.0.0.1:" + closed + "/shop",
				"jdbc:postgresql://127.0.0.1:" + closed + "/shop?user=app&password=" + password,
			} {
				_, err := backfill.Open(t.Context(), address)
				for part := err; part != nil; part = errors.Unwrap(part) {
					wantSecret(t, secret, fmt.Sprintf("%+v", part))
				}
			}
		}
	}
}

// An application's pool whose sessions do not speak UTF-8 would store other characters.
func TestEncodingOfAnApplicationsPool(t *testing.T) {
	t.Parallel()
	pool := poolOf(t, pgtest.New(t).URL, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["client_encoding"] = "LATIN1" })
	_, err := backfill.NewClient(t.Context(), pool)
	wantError(t, err, "new client: the pool's sessions have client_encoding LATIN1, but pgx sends UTF-8: add client_encoding=UTF8")
}

// Open's sessions speak UTF-8 and ISO dates, whatever the database's defaults are, also by the
// simple protocol, whose texts depend on a third default.
func TestEncodingOfOpen(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, setting := range []string{"client_encoding = 'LATIN1'", "datestyle = 'German'", "standard_conforming_strings = off"} {
		dbtest.Run(t, db.Pool(), fmt.Sprintf("alter database %s set %s",
			get[string](t, db.Pool(), "select quote_ident(current_database())"), setting))
	}
	address := serverURL(t, db, func(u *url.URL) {
		query := u.Query()
		query.Set("default_query_exec_mode", "simple_protocol")
		u.RawQuery = query.Encode()
	})
	client, err := backfill.Open(t.Context(), address, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Enqueue(t.Context(), backfill.Request{Task: "send_email", Args: []byte(`{"text":"café €"}`)}); err != nil {
		t.Fatal(err)
	}
	if got := get[string](t, db.Pool(), "select payload->>'text' from graphile_worker._private_jobs"); got != "café €" {
		t.Errorf("stored %q", got)
	}
}

// Open passes over a host that does not answer; if none does, the error names it.
func TestOpenWithADeadHost(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	balancer, through := dbtest.NewBalancer(t, db.URL)
	balancer.Swallow(true)
	both := serverURL(t, db, func(u *url.URL) { u.Host = balancer.Address + "," + u.Host })
	client, err := backfill.Open(t.Context(), both, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	_, err = backfill.Open(t.Context(), through)
	wantError(t, err, balancer.Address)
	wantError(t, err, "nothing answered")
	wantError(t, err, "connect_timeout")
}

// A database that was read-only for a while: the first enqueue may meet a session of that time, and
// none after it does.
func TestEnqueueAfterReadOnly(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client, err := backfill.Open(t.Context(), db.URL, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	peer := dbtest.Connect(t, db.URL)
	name := get[string](t, peer, "select quote_ident(current_database())")
	enqueue := func() error {
		_, err := client.Enqueue(t.Context(), backfill.Request{Task: "send_email"})
		return err
	}
	dbtest.Run(t, peer, "alter database "+name+" set default_transaction_read_only = on")
	kill(t, peer, "true")
	until(t, "enqueues to be refused", func() bool { // the first may meet a connection that was ended
		err = enqueue()
		return err != nil && strings.Contains(err.Error(), "the server takes no writes")
	})
	_, err = backfill.Open(t.Context(), db.URL)
	wantError(t, err, "the server takes no writes")
	wantError(t, err, "(connect to the primary, or wait")
	dbtest.Run(t, peer, "alter database "+name+" set default_transaction_read_only = off")
	if err := enqueue(); err != nil {
		t.Errorf("once it takes writes again: %v", err)
	}
}

// After an outage in which the server's address accepted connections and did not answer, a worker
// claims and listens again.
func TestWorkerAfterASilentServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	balancer, through := dbtest.NewBalancer(t, db.URL)
	client, err := backfill.Open(t.Context(), through, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	task, registry := taskOf("send_email", ignore)
	w := start(t, client, registry)
	enqueue(t, client, task, mailArgs{})
	w.awaitRecorded(1)
	w.await("listening", 1, is(backfill.EventListening))
	balancer.Swallow(true)
	balancer.Cut()
	// An attempt to connect was given up, and another one is under way.
	w.await("the listener to fail twice", 2, is(backfill.EventDisrupted))
	balancer.Swallow(false)
	get[int64](t, db.Pool(), "select id from graphile_worker.add_job('send_email', '{}')")
	w.awaitRecorded(2)
	w.await("listening", 2, is(backfill.EventListening))
	enqueue(t, client, task, mailArgs{})
	w.awaitRecorded(3)
}

// When the first host of the URL dies, each new connection costs as long as a claim may take: a
// worker claims again all the same.
func TestWorkerWhoseFirstHostDied(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	balancer, _ := dbtest.NewBalancer(t, db.URL)
	both := serverURL(t, db, func(u *url.URL) { u.Host = balancer.Address + "," + u.Host })
	client, err := backfill.Open(t.Context(), both, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	_, registry := taskOf("send_email", ignore)
	w := start(t, client, registry)
	w.await("listening", 1, is(backfill.EventListening))
	balancer.Swallow(true)
	balancer.Cut()
	get[int64](t, db.Pool(), "select id from graphile_worker.add_job('send_email', '{}')")
	w.awaitRecorded(1)
}
