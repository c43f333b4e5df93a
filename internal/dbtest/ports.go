package dbtest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// FreePort finds a port of 127.0.0.1 for a program that is started later: the system gives it to
// nobody before, because it is below those from which the system takes ports by itself.
func FreePort(t *testing.T) string {
	t.Helper()
	const first, ports = 10_000, 20_000
	for range 100 {
		port := strconv.Itoa(first + rand.N(ports))
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// ClosedPort is a port of 127.0.0.1 that refuses connections until the test ends. A connection has
// it, which does not listen; a port that nobody has is soon given to a listener of another test.
func ClosedPort(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, port, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
