package pg

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
)

// hookGrace is how long after the end of its context a hook may take to return its own error.
const hookGrace = 100 * time.Millisecond

var (
	errGoexit      = errors.New("it ended its goroutine (runtime.Goexit)")
	errHookNothing = errors.New("it returned nil without an error")
	// errHookHangs is not the context's error: pgx would leave out which function it is about.
	errHookHangs = errors.New("it has not returned in time")
)

// hookError is an error that a hook is to blame for.
type hookError struct {
	name string
	err  error
}

func (e *hookError) Error() string { return "the pool's " + e.name + ": " + e.err.Error() }
func (e *hookError) Unwrap() error { return e.err }

// callHook calls a function of an application's pool configuration, for a session of our own. One
// that panics cannot end the process, also where pgx calls it from a goroutine of its own, and one
// that hangs, whatever its context says, keeps nobody waiting: both are errors of the connection.
func callHook[T any](
	ctx context.Context, name string, hook func(context.Context) (T, error),
) (result T, err error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	end, ok := apart(ctx, hookGrace, func() (T, error) { return hook(ctx) })
	switch {
	case !ok && errors.Is(ctx.Err(), context.Canceled):
		err = &hookError{name, context.Cause(ctx)}
	case !ok:
		err = &hookError{name, errHookHangs}
	case end.panicked == any(errGoexit):
		err = &hookError{name, errGoexit}
	case end.panicked != nil:
		err = &hookError{name, fmt.Errorf("panic: %v", end.panicked)}
	default:
		return end.value, end.err
	}
	return result, err
}

// ending is how a function ended that ran apart.
type ending[T any] struct {
	value    T
	err      error
	panicked any // nil: it has returned
}

// apart runs what belongs to the application on a goroutine of its own, and gives it up a while
// after the end of ctx: then it reports false, and closes what is returned late.
func apart[T any](ctx context.Context, grace time.Duration, run func() (T, error)) (end ending[T], ok bool) {
	done := make(chan ending[T], 1)
	go func() {
		end := ending[T]{panicked: errGoexit}
		defer func() {
			if value := recover(); value != nil {
				end.panicked = value
			}
			done <- end
		}()
		value, err := run()
		end = ending[T]{value: value, err: err}
	}()
	select {
	case end = <-done:
		return end, true
	case <-ctx.Done():
	}
	select {
	case end = <-done:
		return end, true
	case <-time.After(grace):
	}
	go func() {
		late := <-done
		if closer, ok := any(late.value).(io.Closer); ok && late.err == nil {
			_ = closer.Close()
		}
	}()
	return end, false
}

// failed returns the error of what has run apart: its own, a panic's, or the end of ctx.
func (e ending[T]) failed(ctx context.Context, ok bool) error {
	switch {
	case !ok:
		return context.Cause(ctx)
	case e.panicked != nil:
		return fmt.Errorf("panic: %v", e.panicked)
	}
	return e.err
}

// notNil is callHook for hooks that pgx does not expect to return nil.
func notNil[T comparable](
	ctx context.Context, name string, hook func(context.Context) (T, error),
) (T, error) {
	var none T
	value, err := callHook(ctx, name, hook)
	if err == nil && value == none {
		err = &hookError{name, errHookNothing}
	}
	return value, err
}

// tryHook is callHook for hooks that return an error alone.
func tryHook(ctx context.Context, name string, hook func(context.Context) error) error {
	_, err := callHook(ctx, name, func(ctx context.Context) (struct{}, error) { return struct{}{}, hook(ctx) })
	return err
}

// tryNamed is tryHook for hooks whose own errors are to be told from pgx's.
func tryNamed(ctx context.Context, name string, hook func(context.Context) error) error {
	return tryHook(ctx, name, func(ctx context.Context) error {
		if err := hook(ctx); err != nil {
			return &hookError{name, err}
		}
		return nil
	})
}

// guardHooks has the functions that make a connection called as hooks, and leaves out those that
// react to its use. It changes the configuration of one connection, and nothing that others share.
// ctx is that of connecting.
func guardHooks(ctx context.Context, c *pgx.ConnConfig) {
	*c = *c.Copy()
	guardNetwork(c)
	guardStart(ctx, c)
	guardTLS(ctx, c.TLSConfig)
	for _, fallback := range c.Fallbacks {
		guardTLS(ctx, fallback.TLSConfig)
	}
	c.OnNotice = nil
	// The application's AfterConnect may listen: without a handler, pgx would keep what comes.
	c.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
}

// guardNetwork is about what leads to a server.
func guardNetwork(c *pgx.ConnConfig) {
	lookup, dial, changed := c.LookupFunc, c.DialFunc, c.AfterNetConnect
	c.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		return callHook(ctx, "LookupFunc", func(ctx context.Context) ([]string, error) { return lookup(ctx, host) })
	}
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		return notNil(ctx, "DialFunc", func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, address) })
	}
	if changed == nil {
		return
	}
	c.AfterNetConnect = func(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
		other, err := notNil(ctx, "AfterNetConnect", func(ctx context.Context) (net.Conn, error) {
			return changed(ctx, config, conn)
		})
		if err != nil {
			return conn, err // which pgx closes
		}
		return other, nil
	}
}

// guardStart is about what speaks to a server until the connection is ready.
func guardStart(ctx context.Context, c *pgx.ConnConfig) {
	build, token, validate, after := c.BuildFrontend, c.OAuthTokenProvider, c.ValidateConnect, c.AfterConnect
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		frontend, err := notNil(ctx, "BuildFrontend", func(context.Context) (*pgproto3.Frontend, error) {
			return build(r, w), nil
		})
		if err != nil {
			return pgproto3.NewFrontend(broken{err}, broken{err})
		}
		return frontend
	}
	if token != nil {
		c.OAuthTokenProvider = func(ctx context.Context) (string, error) {
			return callHook(ctx, "OAuthTokenProvider", token)
		}
	}
	if validate != nil {
		c.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
			return tryHook(ctx, "ValidateConnect", func(ctx context.Context) error { return validate(ctx, conn) })
		}
	}
	if after != nil {
		c.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
			return tryHook(ctx, "ConnConfig.AfterConnect", func(ctx context.Context) error { return after(ctx, conn) })
		}
	}
}

// broken is both ends of a connection that is of no use.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error)  { return 0, b.err }
func (b broken) Write([]byte) (int, error) { return 0, b.err }

// guardTLS is about the functions that a client's handshake calls. They know no context, and may be
// called after that of connecting has ended, for a request to cancel: then they have hookGrace.
func guardTLS(ctx context.Context, c *tls.Config) {
	if c == nil {
		return
	}
	if now := c.Time; now != nil {
		c.Time = func() time.Time {
			at, err := callHook(ctx, "TLSConfig.Time", func(context.Context) (time.Time, error) { return now(), nil })
			if err != nil {
				return time.Unix(0, 0) // when no certificate is valid
			}
			return at
		}
	}
	if get := c.GetClientCertificate; get != nil {
		c.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return notNil(ctx, "TLSConfig.GetClientCertificate", func(context.Context) (*tls.Certificate, error) { return get(info) })
		}
	}
	if verify := c.VerifyPeerCertificate; verify != nil {
		c.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
			return tryHook(ctx, "TLSConfig.VerifyPeerCertificate", func(context.Context) error { return verify(raw, chains) })
		}
	}
	for name, field := range map[string]*func(tls.ConnectionState) error{
		"VerifyConnection":                    &c.VerifyConnection,
		"EncryptedClientHelloRejectionVerify": &c.EncryptedClientHelloRejectionVerify,
	} {
		if verify := *field; verify != nil {
			*field = func(state tls.ConnectionState) error {
				return tryHook(ctx, "TLSConfig."+name, func(context.Context) error { return verify(state) })
			}
		}
	}
}
