//go:build unix

package main

import (
	"net"
	"testing"
	"time"
)

// A pooler that answers, and one that is not there, do not hang.
func TestHangs(t *testing.T) {
	t.Parallel()
	listen := func(answer string) string {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			if _, err := conn.Read(make([]byte, 8)); err == nil && answer != "" {
				_, _ = conn.Write([]byte(answer))
			}
		}()
		return listener.Addr().String()
	}
	free, err := freeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if hangs(listen("N"), time.Minute) || hangs(free, time.Minute) {
		t.Error("what answers, or is not there, hangs")
	}
	if !hangs(listen(""), 50*time.Millisecond) {
		t.Error("what does not answer does not hang")
	}
}

// A pooler that ends by itself while it is being stopped is not started again: nobody would end it.
func TestPoolerStopsWhileItIsAway(t *testing.T) {
	t.Parallel()
	upstream, err := newLink(t.Context(), "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 1)
	p := &pooler{program: "/bin/sleep", ini: "0.1", upstream: upstream, stopped: make(chan struct{}), crashed: func(state string) {
		select {
		case ended <- state:
		default:
		}
	}}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	go p.supervise()
	<-ended
	p.mu.Lock()
	p.ini = "1000" // what is started after this does not end
	p.mu.Unlock()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		p.stop()
	}()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Fatal("it was started again, and nobody ends it")
	}
}
