//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// A link is the network between one process and a server: it passes on what it gets, until a fault
// says otherwise.
type link struct {
	address string

	mu     sync.Mutex
	to     string // host:port of the server
	conns  map[*net.TCPConn]struct{}
	gate   chan struct{} // closed: open
	delay  time.Duration // of what passes, each way
	closed bool

	listener net.Listener
}

func newLink(ctx context.Context, to string) (*link, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a link: %w", err)
	}
	l := &link{address: listener.Addr().String(), to: to, conns: map[*net.TCPConn]struct{}{}, gate: make(chan struct{}), listener: listener}
	close(l.gate)
	go l.serve(ctx)
	return l, nil
}

// lead leads new connections to another address.
func (l *link) lead(to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = to
}

// cut ends all connections with a reset, in both directions.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
}

// swallow lets nothing pass, and answers nobody, until the function that it returns is called.
// Nothing is lost: what was sent meanwhile arrives then, as TCP would send it again.
func (l *link) swallow() (open func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gate := make(chan struct{})
	l.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

// slow delays everything.
func (l *link) slow(delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = delay
}

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	_ = l.listener.Close()
	l.cut()
}

// pass waits until something may pass.
func (l *link) pass() {
	l.mu.Lock()
	gate, delay := l.gate, l.delay
	l.mu.Unlock()
	<-gate
	if delay > 0 {
		time.Sleep(delay)
	}
}

func (l *link) serve(ctx context.Context) {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		go l.connect(ctx, conn.(*net.TCPConn))
	}
}

func (l *link) connect(ctx context.Context, client *net.TCPConn) {
	l.pass()
	l.mu.Lock()
	to := l.to
	l.mu.Unlock()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", to)
	if err != nil {
		_ = client.SetLinger(0) // refused
		_ = client.Close()
		return
	}
	server := conn.(*net.TCPConn)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = client.Close()
		_ = server.Close()
		return
	}
	l.conns[client], l.conns[server] = struct{}{}, struct{}{}
	go l.copy(server, client)
	go l.copy(client, server)
}

func (l *link) copy(to, from *net.TCPConn) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, to)
		delete(l.conns, from)
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		l.pass()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
