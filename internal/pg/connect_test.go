package pg_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// within fails the test if something does not come to an end. The limit is far from those that are
// tested, and near to those of pgx: 2 minutes for a pool to connect, none for anything else.
func within(t *testing.T, what string, do func(context.Context) error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do(t.Context()) }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatalf("%s has no end", what)
		return nil
	}
}

// Every step of connecting has an end, and the error says which one had none.
func TestConnectingHasAnEnd(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	balancer, through := dbtest.NewBalancer(t, db.URL)
	balancer.Swallow(true)
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	var waiting sync.WaitGroup
	for name, test := range map[string]struct { //nolint:paralleltest // all wait at once
		url    string
		change func(*pgxpool.Config)
		want   string
	}{
		"server":                              {through, nil, balancer.Address},
		"server, with a long connect_timeout": {withParameter(t, through, "connect_timeout", "300"), nil, "connect_timeout"},
		"name": {db.URL, func(c *pgxpool.Config) {
			c.ConnConfig.Host = "db.example"
			c.ConnConfig.LookupFunc = func(ctx context.Context, _ string) ([]string, error) { return nil, hang(ctx) }
		}, "deadline exceeded"},
		"dial": {db.URL, func(c *pgxpool.Config) {
			c.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, hang(ctx) }
		}, "dial"},
		"BeforeConnect": {db.URL, func(c *pgxpool.Config) {
			c.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error { return hang(ctx) }
		}, "the pool's BeforeConnect: "},
		"AfterConnect": {db.URL, func(c *pgxpool.Config) {
			c.AfterConnect = func(ctx context.Context, _ *pgx.Conn) error { return hang(ctx) }
		}, "the pool's AfterConnect: "},
	} {
		waiting.Go(func() {
			t.Run(name, func(t *testing.T) {
				settings := pg.SettingsOf(newPool(t, test.url, test.change), schemaName)
				store, err := pg.Open(t.Context(), settings)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(store.Close)
				nudges := pg.NewNudges(settings)
				var all sync.WaitGroup
				for what, connect := range map[string]func(context.Context) error{
					"the pool":          func(ctx context.Context) error { return store.Register(ctx, worker.Registration{ID: "pool-1"}) },
					"the listener":      func(ctx context.Context) error { return store.Listen(ctx, func() {}, nil) },
					"the notifications": func(ctx context.Context) error { return nudges.Send(ctx, 1) },
				} {
					all.Go(func() { dbtest.Mentions(t, within(t, what, connect), test.want) })
				}
				all.Wait()
			})
		})
	}
	waiting.Wait()
}

// Of several addresses the first may be dead: the others are tried.
func TestDeadAddressFirst(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	balancer, through := dbtest.NewBalancer(t, db.URL)
	balancer.Swallow(true)
	server := db.Pool().Config().ConnConfig
	alive := net.JoinHostPort(server.Host, portOf(server))
	for name, pool := range map[string]*pgxpool.Pool{
		"hosts": newPool(t, strings.Replace(through, balancer.Address, balancer.Address+","+alive, 1), nil),
		"addresses of a name": newPool(t, through, func(c *pgxpool.Config) {
			c.ConnConfig.Host, c.ConnConfig.ConnectTimeout = "db.example", 0
			c.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{balancer.Address, alive}, nil }
			for _, fallback := range c.ConnConfig.Fallbacks {
				fallback.Host = "db.example"
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := pg.SettingsOf(pool, schemaName)
			err := within(t, "Register", func(ctx context.Context) error {
				store, err := pg.Open(ctx, settings)
				if err != nil {
					return err
				}
				defer store.Close()
				return store.Register(ctx, worker.Registration{ID: "pool-" + name})
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func portOf(config *pgx.ConnConfig) string {
	_, address := pgconn.NetworkAddress(config.Host, config.Port)
	_, port, _ := net.SplitHostPort(address)
	return port
}

// A server in recovery or fenced against writes is passed over for one that takes writes.
func TestReadOnlyHostFirst(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	fenced, through := dbtest.NewBalancer(t, db.URL)
	server := db.Pool().Config().ConnConfig
	alive := net.JoinHostPort(server.Host, portOf(server))
	pool := newPool(t, strings.Replace(through, fenced.Address, fenced.Address+","+alive, 1), nil)
	config := pool.Config()
	config.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if conn.RemoteAddr().String() == fenced.Address {
			return &readOnlyConn{Conn: conn}, nil
		}
		return conn, nil
	}
	application, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(application.Close)
	rigWith(t, db.Pool(), pg.SettingsOf(application, schemaName))
}

// readOnlyConn asks for read-only transactions at the start of the session.
type readOnlyConn struct {
	net.Conn
	started bool
}

func (c *readOnlyConn) Write(message []byte) (int, error) {
	if c.started {
		return c.Conn.Write(message)
	}
	c.started = true
	more := "default_transaction_read_only\x00on\x00"
	changed := append([]byte{}, message[:len(message)-1]...)
	changed = append(append(changed, more...), 0)
	size := len(changed)
	changed[0], changed[1], changed[2], changed[3] = byte(size>>24), byte(size>>16), byte(size>>8), byte(size)
	if _, err := c.Conn.Write(changed); err != nil {
		return 0, err
	}
	return len(message), nil
}

// A connection that breaks does not keep its place in the pool while a server that does not answer
// is asked to cancel its statement.
func TestBrokenConnectionsAreClosedQuickly(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	balancer, through := dbtest.NewBalancer(t, db.URL)
	config, err := pg.PoolConfig(through)
	if err != nil {
		t.Fatal(err)
	}
	connConfig := config.ConnConfig.Copy()
	if err := config.BeforeConnect(t.Context(), connConfig); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), connConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	balancer.Swallow(true)
	// pgx dials for the request, and waits until the server closes the connection.
	cancel, err := connConfig.DialFunc(t.Context(), "tcp", balancer.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cancel.Close() })
	var timeout net.Error
	err = within(t, "the request to cancel", func(context.Context) error { _, err := cancel.Read(make([]byte, 1)); return err })
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the request ended with %v, want a timeout", err)
	}
	if err := conn.PgConn().Conn().SetDeadline(time.Now().Add(time.Hour)); err != nil { // pgx: 15 s
		t.Fatal(err)
	}
	err = within(t, "closing", func(context.Context) error { _, err := conn.PgConn().Conn().Read(make([]byte, 1)); return err })
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("closing ended with %v, want a timeout", err)
	}
}

// Files that a connection string names are read again for each connection.
func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	passfile, roots := filepath.Join(folder, "pgpass"), filepath.Join(folder, "root.pem")
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(passfile, []byte("*:*:*:app:one\n"))
	first, second := authority(t), authority(t)
	write(roots, first)
	config, err := pg.PoolConfig("postgres://app@127.0.0.1:1/shop?sslmode=verify-full&passfile=" + passfile + "&sslrootcert=" + roots)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when, password string, authority []byte) {
		t.Helper()
		c := config.ConnConfig.Copy()
		if err := config.BeforeConnect(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		want := x509.NewCertPool()
		want.AppendCertsFromPEM(authority)
		if c.Password != password || !c.TLSConfig.RootCAs.Equal(want) {
			t.Errorf("%s: password %q, want %q; the right certificates: %t", when, c.Password, password, c.TLSConfig.RootCAs.Equal(want))
		}
	}
	check("at first", "one", first)
	write(passfile, []byte("*:*:*:app:two\n"))
	write(roots, second)
	check("changed", "two", second)
	write(roots, []byte("half of a"))
	check("while it is written", "one", first)
}

// authority makes a certificate, as PEM.
func authority(t *testing.T) []byte {
	t.Helper()
	certificate, _ := selfSigned(t)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
}

// selfSigned makes a certificate of 127.0.0.1, and a pool that it is in.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rand.Text()}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
