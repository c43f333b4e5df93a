package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Server serves the HTTP API on a listener of its own. Make it with Listen.
type Server struct {
	handler  *handler
	listener net.Listener
	carry    *Admin
}

// Listen opens a listener on an address such as 127.0.0.1:5678 for the HTTP API, and also for who is
// not authenticated, if it is told of no credentials: such a listener is on a loopback address, and
// nothing is changed through it, no payload is shown, and no proxy can use it. Close what Serve does
// not serve.
func Listen(ctx context.Context, a *Admin, address string, options ...HandlerOption) (*Server, error) {
	h, err := newHandler(a, options)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("the address %q to listen on: want an address and a port, such as 127.0.0.1:5678", address)
	}
	s := &Server{handler: h, carry: h.admin}
	if h.authenticate == nil {
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
			return nil, fmt.Errorf("the address %q can be reached from other machines, and nobody needs a password: listen on 127.0.0.1, or name who may, "+
				"with --users or --token-file of backfill ui, or admin.WithCredentials", address)
		}
		h.anonymous, s.carry = true, nil
		h.use(a, nil)
		h.admin.readOnly()
	}
	if s.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", address); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if end, err := netip.ParseAddrPort(s.listener.Addr().String()); h.anonymous && (err != nil || !end.Addr().Unmap().IsLoopback()) {
		s.listener.Close()
		return nil, fmt.Errorf("the name localhost is %s here, which other machines can reach: listen on 127.0.0.1", s.listener.Addr())
	}
	return s, nil
}

// readOnly lets everybody see what they could see before, but payloads, and change nothing.
func (a *Admin) readOnly() {
	before := a.authorize
	a.byRole = before == nil
	a.authorize = func(ctx context.Context, principal Principal, action Action, target Target) bool {
		return action == ActionRead && (before == nil || before(ctx, principal, action, target))
	}
}

// Addr returns where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Anonymous reports whether it serves those who are not authenticated.
func (s *Server) Anonymous() bool { return s.handler.anonymous }

// Close closes the listener.
func (s *Server) Close() error { return s.listener.Close() }

// Serve serves until ctx ends, which is no error, and then lets requests end for some seconds. It
// also carries on operations that were started, unless it serves those who are not authenticated.
func (s *Server) Serve(ctx context.Context) error {
	const grace = 5 * time.Second
	server := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: requestTimeout, WriteTimeout: 2 * requestTimeout, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(s.handler.logger.Handler(), slog.LevelDebug),
	}
	carrying, stop := context.WithCancel(ctx)
	carried := make(chan struct{})
	go func() {
		defer close(carried)
		if s.carry != nil {
			s.carryOn(carrying)
		}
	}()
	defer func() { stop(); <-carried }()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(s.listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// carryOn carries on operations, and tries again when the database was away or has no tables for them.
func (s *Server) carryOn(ctx context.Context) {
	const again = 30 * time.Second
	for {
		err := s.carry.Carry(ctx)
		if err != nil && !errors.Is(err, ErrNoRecords) {
			s.handler.logger.LogAttrs(ctx, slog.LevelWarn, "operations cannot be carried on", slog.String("error", err.Error()))
		}
		if !pause(ctx, again) {
			return
		}
	}
}
