package dbtest

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/needs"
)

// Balancer is a load balancer before a server: it hands on connections, or accepts and never
// answers them, as one does whose server has died, and it can cut them.
type Balancer struct {
	// Address is its own, host:port.
	Address string

	listener net.Listener
	mu       sync.Mutex
	server   string
	swallows bool
	conns    []net.Conn
}

// NewBalancer starts one before the server of a URL, and returns the URL that leads through it.
func NewBalancer(t *testing.T, databaseURL string) (b *Balancer, through string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	needs.That(t, err == nil && u.Host != "", "URL with one host for the test server")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b = &Balancer{Address: listener.Addr().String(), listener: listener, server: u.Host}
	t.Cleanup(func() {
		_ = listener.Close()
		b.Cut()
	})
	go b.accept()
	u.Host = b.Address
	return b, u.String()
}

func (b *Balancer) accept() {
	for {
		in, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns = append(b.conns, in)
		swallows := b.swallows
		b.mu.Unlock()
		if !swallows {
			go b.handOn(in)
		}
	}
}

func (b *Balancer) handOn(in net.Conn) {
	defer in.Close()
	b.mu.Lock()
	server := b.server
	b.mu.Unlock()
	out, err := net.DialTimeout("tcp", server, 10*time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	b.mu.Lock()
	b.conns = append(b.conns, out)
	b.mu.Unlock()
	go func() { // whichever side ends, both do
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
}

// Lead hands new connections on to the server of another URL.
func (b *Balancer) Lead(t *testing.T, databaseURL string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server = u.Host
}

// Swallow says whether new connections are accepted and never answered.
func (b *Balancer) Swallow(swallows bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.swallows = swallows
}

// Cut ends all connections.
func (b *Balancer) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range b.conns {
		_ = conn.Close()
	}
	b.conns = nil
}
