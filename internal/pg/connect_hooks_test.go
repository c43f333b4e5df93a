package pg_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/worker"
	"github.com/backfillhq/go/testutil/pgtest"
)

// hookedBy makes a function of a pool's configuration call hook.
type hookedBy func(c *pgxpool.Config, hook func())

// guardedHooks are called under a guard for sessions of our own.
var guardedHooks = map[string]hookedBy{
	"pgxpool.Config.BeforeConnect": func(c *pgxpool.Config, hook func()) {
		c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { hook(); return nil }
	},
	"pgxpool.Config.AfterConnect": func(c *pgxpool.Config, hook func()) {
		c.AfterConnect = func(context.Context, *pgx.Conn) error { hook(); return nil }
	},
	"pgconn.Config.LookupFunc": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { hook(); return nil, nil }
	},
	"pgconn.Config.DialFunc": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) { hook(); return nil, nil } //nolint:nilnil // what a bad one may do
	},
	"pgconn.Config.AfterNetConnect": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.AfterNetConnect = func(context.Context, *pgconn.Config, net.Conn) (net.Conn, error) { hook(); return nil, nil } //nolint:nilnil // likewise
	},
	"pgconn.Config.BuildFrontend": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.BuildFrontend = func(io.Reader, io.Writer) *pgproto3.Frontend { hook(); return nil }
	},
	"pgconn.Config.ValidateConnect": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.ValidateConnect = func(context.Context, *pgconn.PgConn) error { hook(); return nil }
	},
	"pgconn.Config.AfterConnect": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.AfterConnect = func(context.Context, *pgconn.PgConn) error { hook(); return nil }
	},
	"pgconn.Config.OAuthTokenProvider": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.OAuthTokenProvider = func(context.Context) (string, error) { hook(); return "", nil }
	},
	"tls.Config.GetClientCertificate": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { hook(); return nil, nil } //nolint:nilnil // likewise
	},
	"tls.Config.VerifyPeerCertificate": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.TLSConfig.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { hook(); return nil }
	},
	"tls.Config.VerifyConnection": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.TLSConfig.VerifyConnection = func(tls.ConnectionState) error { hook(); return nil }
	},
	"tls.Config.Time": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.TLSConfig.InsecureSkipVerify = false
		c.ConnConfig.TLSConfig.Time = func() time.Time { hook(); return time.Now() }
	},
}

// droppedHooks react to the application's use of its pool, and are not called for sessions of our
// own.
var droppedHooks = map[string]hookedBy{
	"pgxpool.Config.BeforeAcquire": func(c *pgxpool.Config, hook func()) {
		//nolint:staticcheck // deprecated, and in use
		c.BeforeAcquire = func(context.Context, *pgx.Conn) bool { hook(); return true }
	},
	"pgxpool.Config.PrepareConn": func(c *pgxpool.Config, hook func()) {
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { hook(); return true, nil }
	},
	"pgxpool.Config.AfterRelease": func(c *pgxpool.Config, hook func()) {
		c.AfterRelease = func(*pgx.Conn) bool { hook(); return true }
	},
	"pgxpool.Config.BeforeClose": func(c *pgxpool.Config, hook func()) {
		c.BeforeClose = func(*pgx.Conn) { hook() }
	},
	"pgxpool.Config.ShouldPing": func(c *pgxpool.Config, hook func()) {
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { hook(); return true }
	},
	"pgx.ConnConfig.Tracer": func(c *pgxpool.Config, hook func()) { c.ConnConfig.Tracer = tracer(hook) },
	"pgconn.Config.BuildContextWatcherHandler": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.BuildContextWatcherHandler = func(*pgconn.PgConn) ctxwatch.Handler { hook(); return nil }
	},
	"pgconn.Config.OnNotice": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { hook() }
	},
	"pgconn.Config.OnNotification": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { hook() }
	},
	"pgconn.Config.OnPgError": func(c *pgxpool.Config, hook func()) {
		c.ConnConfig.OnPgError = func(*pgconn.PgConn, *pgconn.PgError) bool { hook(); return true }
	},
}

// otherHooks need nothing. GetSSLPassword of pgconn.ParseConfigOptions is not in a configuration:
// pgx calls it when the application parses one.
var otherHooks = map[string]string{
	"tls.Config.EncryptedClientHelloRejectionVerify": "guarded as VerifyConnection is; a test would need a server that knows ECH",
	"tls.Config.GetCertificate":                      "a server's",
	"tls.Config.GetConfigForClient":                  "a server's",
	"tls.Config.GetEncryptedClientHelloKeys":         "a server's",
	"tls.Config.WrapSession":                         "a server's",
	"tls.Config.UnwrapSession":                       "a server's",
	"tls.Config.Rand":                                "the methods of a value, which must not fail",
	"tls.Config.ClientSessionCache":                  "likewise",
	"tls.Config.KeyLogWriter":                        "likewise",
	"tls.Certificate.PrivateKey":                     "likewise",
}

type tracer func()

func (t tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	t()
	return ctx
}
func (t tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) { t() }

// Every function that a configuration can have is guarded, dropped, or known to need neither. One
// that a later version of pgx or Go brings fails this test until somebody decides.
func TestEveryHookIsDecided(t *testing.T) {
	t.Parallel()
	var found, decided []string
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(in reflect.Type) {
		for in.Kind() == reflect.Pointer || in.Kind() == reflect.Slice || in.Kind() == reflect.Map {
			in = in.Elem()
		}
		if seen[in] || in.Kind() != reflect.Struct || in.PkgPath() != "crypto/tls" && !strings.HasPrefix(in.PkgPath(), "github.com/jackc/pgx/") {
			return
		}
		seen[in] = true
		for field := range in.Fields() {
			switch {
			case !field.IsExported():
			case field.Type.Kind() == reflect.Func, field.Type.Kind() == reflect.Interface:
				found = append(found, in.String()+"."+field.Name)
			default:
				walk(field.Type)
			}
		}
	}
	walk(reflect.TypeFor[pgxpool.Config]())
	for name := range guardedHooks {
		decided = append(decided, name)
	}
	for name := range droppedHooks {
		decided = append(decided, name)
	}
	for name := range otherHooks {
		decided = append(decided, name)
	}
	slices.Sort(found)
	slices.Sort(decided)
	if diff := gocmp.Diff(decided, found); diff != "" {
		t.Errorf("functions of a configuration (-decided +found):\n%s", diff)
	}
}

// Whatever a hook of the application's pool does, the process lives, and the caller that connects
// gets an error, at the latest when its context ends or its time is over.
func TestHooksThatMisbehave(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	asking, certificates := askingServer(t)
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	var waiting sync.WaitGroup
	for want, hook := range map[string]func(){ //nolint:paralleltest // all wait at once
		"panic: oops":         func() { panic("oops") },
		"ended its goroutine": runtime.Goexit,
		"":                    func() { <-never },
	} {
		for which, change := range guardedHooks {
			_, name, _ := strings.Cut(which, "Config.")
			waiting.Go(func() {
				t.Run(which+" "+cmp.Or(want, "hangs"), func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					pool := newPool(t, db.URL, func(c *pgxpool.Config) {
						if strings.HasPrefix(which, "tls.") || name == "OAuthTokenProvider" {
							c.ConnConfig.Host, c.ConnConfig.Port = "127.0.0.1", asking
							c.ConnConfig.TLSConfig = &tls.Config{RootCAs: certificates, InsecureSkipVerify: true, ServerName: "127.0.0.1"} //nolint:gosec // a test
						}
						change(c, func() {
							time.AfterFunc(10*time.Millisecond, cancel)
							hook()
						})
					})
					wants := []string{name, want}
					if name == "Time" { // no certificate is valid
						wants = []string{"not yet valid"}
					}
					store, err := pg.Open(t.Context(), pg.SettingsOf(pool, schemaName))
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(store.Close)
					err = within(t, "the listener", func(context.Context) error {
						return store.Listen(ctx, func() { t.Error("it listens") }, nil)
					})
					dbtest.Mentions(t, err, wants...)
					err = within(t, "the pool", func(ctx context.Context) error {
						return store.Register(ctx, worker.Registration{ID: "pool-1", Tasks: []string{"a"}})
					})
					dbtest.Mentions(t, err, wants...)
				})
			})
		}
	}
	waiting.Wait()
}

// A hook that returns nothing, and no error either, is an error.
func TestHooksThatReturnNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, name := range []string{"DialFunc", "AfterNetConnect", "BuildFrontend"} {
		pool := newPool(t, db.URL, func(c *pgxpool.Config) { guardedHooks["pgconn.Config."+name](c, func() {}) })
		err := pg.NewNudges(pg.SettingsOf(pool, schemaName)).Send(t.Context(), 1)
		dbtest.Mentions(t, err, name, "returned nil")
	}
}

// What an abandoned dial returns late is closed.
func TestLateConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	late := make(chan struct{})
	pool := newPool(t, db.URL, func(c *pgxpool.Config) {
		c.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) {
			cancel()
			<-late
			return ours, nil
		}
	})
	dbtest.Mentions(t, pg.NewNudges(pg.SettingsOf(pool, schemaName)).Send(ctx, 1), "DialFunc", "canceled")
	close(late)
	err := within(t, "the connection", func(context.Context) error { _, err := theirs.Read(make([]byte, 1)); return err })
	if err != io.EOF { //nolint:errorlint // as net.Pipe has it
		t.Error(err)
	}
}

// Hooks that react to the use of the application's pool are not called.
func TestHooksThatAreDropped(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := newPool(t, db.URL, func(c *pgxpool.Config) {
		for name, change := range droppedHooks {
			change(c, func() { t.Errorf("%s was called", name) })
		}
	})
	store, err := pg.Open(t.Context(), pg.SettingsOf(pool, schemaName))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Register(t.Context(), worker.Registration{ID: "pool-1", Tasks: []string{"a"}}); err != nil {
		t.Error(err)
	}
	if _, err := store.Setting(t.Context(), "no.such"); err == nil {
		t.Error("there is a setting no.such")
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := store.Listen(ctx, cancel, nil); ctx.Err() == nil {
		t.Error(err)
	}
}

// askingServer does TLS, and asks clients for a certificate and a token. It returns its port and
// its certificate.
func askingServer(t *testing.T) (uint16, *x509.CertPool) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	certificate, roots := selfSigned(t)
	serve := func(socket net.Conn) {
		defer func() { _ = socket.Close() }()
		if _, err := io.ReadFull(socket, make([]byte, 8)); err != nil { // SSLRequest
			return
		}
		_, _ = socket.Write([]byte("S"))
		conn := tls.Server(socket, &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13})
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			return
		}
		backend.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"OAUTHBEARER"}})
		_ = backend.Flush()
		_, _ = io.Copy(io.Discard, conn)
	}
	go func() {
		for {
			socket, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(socket)
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort().Port(), roots
}
