//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	return listener.Addr().String()
}

func linkTo(t *testing.T, address string) *link {
	t.Helper()
	l, err := newLink(context.WithoutCancel(t.Context()), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func dial(t *testing.T, l *link) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp4", l.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call sends a byte, and waits for the answer.
func call(conn net.Conn, within time.Duration) error {
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	return await(conn, within)
}

func await(conn net.Conn, within time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

const long = 10 * time.Second

func TestLinkCut(t *testing.T) {
	t.Parallel()
	l := linkTo(t, echo(t))
	conn := dial(t, l)
	if err := call(conn, long); err != nil {
		t.Fatal(err)
	}
	l.cut()
	if err := await(conn, long); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	if err := call(dial(t, l), long); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

// Nobody gets an answer, and what was sent is not lost.
func TestLinkSwallows(t *testing.T) {
	t.Parallel()
	l := linkTo(t, echo(t))
	before := dial(t, l)
	if err := call(before, long); err != nil {
		t.Fatal(err)
	}
	open := l.swallow()
	during := dial(t, l)
	for name, conn := range map[string]net.Conn{"before": before, "during": during} {
		if err := call(conn, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connected %s: got %v, want no answer", name, err)
		}
	}
	open()
	for name, conn := range map[string]net.Conn{"before": before, "during": during} {
		if err := await(conn, long); err != nil {
			t.Errorf("connected %s: %v", name, err)
		}
	}
}

func TestLinkDelays(t *testing.T) {
	t.Parallel()
	l := linkTo(t, echo(t))
	conn := dial(t, l)
	l.slow(50 * time.Millisecond)
	begun := time.Now()
	if err := call(conn, long); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("the answer took %v", took)
	}
}

// A link without a server refuses, and leads to the next server at the same address.
func TestLinkLeads(t *testing.T) {
	t.Parallel()
	gone, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := linkTo(t, gone)
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp4", l.address); err == nil { // the reset may be faster
		t.Cleanup(func() { conn.Close() })
		if err := call(conn, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want a refusal", err)
		}
	}
	l.lead(echo(t))
	if err := call(dial(t, l), long); err != nil {
		t.Error(err)
	}
}
