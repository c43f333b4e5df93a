package dbtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Fault is what happens to the connection whose message it meets.
type Fault int

const (
	// Cut closes both ends before the message is passed on.
	Cut Fault = iota
	// Kill has the server end the session before the message is passed on.
	Kill
	// Freeze passes nothing on from this message on, and closes nothing.
	Freeze
)

func (f Fault) String() string { return [...]string{"cut", "kill", "freeze"}[f] }

// Faults are all of them.
var Faults = []Fault{Cut, Kill, Freeze}

// Proxy passes messages of PostgreSQL's protocol on, in both directions, and counts them once it is
// armed. Messages of the start of a session do not count.
type Proxy struct {
	// URL connects to the database through the proxy.
	URL string

	to   string
	kill func(pid uint32)

	mu       sync.Mutex
	position int    // messages until the fault; 0: not armed
	text     string // or a statement with this text
	early    bool   // the statement itself meets the fault, not its answer
	fault    Fault
	met      byte // the type of the message that met the fault
	sockets  []net.Conn
	frozen   []net.Conn
	gate     chan struct{} // closed: messages pass
}

// NewProxy returns a proxy for the database of a URL, which ends with the test.
func NewProxy(t *testing.T, databaseURL string) *Proxy {
	t.Helper()
	target, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{to: target.Host, gate: make(chan struct{})}
	close(p.gate)
	proxied := *target
	proxied.Host = listener.Addr().String()
	query := proxied.Query()
	query.Set("sslmode", "disable") // messages must be readable
	proxied.RawQuery = query.Encode()
	p.URL = proxied.String()
	killer := Connect(t, databaseURL)
	var killing sync.Mutex
	p.kill = func(pid uint32) {
		killing.Lock()
		defer killing.Unlock()
		_, _ = killer.Exec(context.Background(), "select pg_terminate_backend($1::int)", int(pid))
		for there := true; there; {
			if killer.QueryRow(context.Background(), "select exists (select from pg_stat_activity where pid = $1::int)", int(pid)).Scan(&there) != nil {
				return
			}
		}
	}
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, socket := range p.sockets {
			_ = socket.Close()
		}
	})
	go p.serve(listener)
	return p
}

// Arm lets the message at a position, from 1, meet a fault.
func (p *Proxy) Arm(position int, fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.position, p.text, p.fault, p.met = position, "", fault, 0
}

// ArmAfter lets the answer to the next statement with this text meet a fault: it has run then.
func (p *Proxy) ArmAfter(text string, fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.position, p.text, p.early, p.fault, p.met = 0, text, false, fault, 0
}

// ArmBefore lets the next statement with this text meet a fault: it has not run then.
func (p *Proxy) ArmBefore(text string, fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.position, p.text, p.early, p.fault, p.met = 0, text, true, fault, 0
}

// contains reports whether a message has the text, and whether it is to meet the fault itself.
func (p *Proxy) contains(message []byte) (found, early bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text == "" || !bytes.Contains(message, []byte(p.text)) {
		return false, false
	}
	p.text = ""
	return true, p.early
}

// Met returns the type of the message that met the fault, 0 if none has yet.
func (p *Proxy) Met() byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

// meet is the fault of a message that was found by its text.
func (p *Proxy) meet(kind byte) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.met = kind
	return p.fault
}

// Disarm ends what is frozen, and returns the type of the message that met the fault, 0 if there
// were not so many.
func (p *Proxy) Disarm() byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.position, p.text = 0, ""
	for _, socket := range p.frozen {
		_ = socket.Close()
	}
	p.frozen = nil
	return p.met
}

// meets counts a message, and returns the fault that it meets.
func (p *Proxy) meets(kind byte) (Fault, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.position == 0 {
		return 0, false
	}
	p.position--
	if p.position > 0 {
		return 0, false
	}
	p.met = kind
	return p.fault, true
}

// Stop lets nothing pass, as a server that stands still: it takes connections, and answers nobody.
// Nothing is lost: once the function that it returns is called, what was sent arrives.
func (p *Proxy) Stop() (goOn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gate := make(chan struct{})
	p.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

// wait waits until messages may pass.
func (p *Proxy) wait() {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	<-gate
}

func (p *Proxy) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go p.connect(client)
	}
}

func (p *Proxy) connect(client net.Conn) {
	p.wait()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.sockets = append(p.sockets, client, server)
	p.mu.Unlock()
	s := &proxied{proxy: p, client: client, server: server}
	go s.pass(client, server, true)
	go s.pass(server, client, false)
}

// proxied is one session.
type proxied struct {
	proxy          *Proxy
	client, server net.Conn

	mu     sync.Mutex
	pid    uint32
	ready  bool // the start of the session is over
	frozen bool
	marked bool // the next completion of a statement meets the fault
}

func (s *proxied) pass(from, to net.Conn, start bool) {
	defer func() {
		_ = from.Close()
		_ = to.Close()
	}()
	for {
		kind, message, err := readMessage(from, start)
		start = false
		if err != nil {
			return
		}
		if !s.meet(kind, message, from == s.server) {
			return
		}
		s.mu.Lock()
		frozen := s.frozen
		s.mu.Unlock()
		if frozen {
			_, _ = io.Copy(io.Discard, from)
			return
		}
		s.proxy.wait()
		if _, err := to.Write(message); err != nil {
			return
		}
	}
}

// meet reports false if the session is over.
func (s *proxied) meet(kind byte, message []byte, fromServer bool) bool {
	s.mu.Lock()
	ready := s.ready
	switch {
	case fromServer && kind == 'K':
		s.pid = binary.BigEndian.Uint32(message[5:])
	case fromServer && kind == 'Z':
		s.ready = true
	}
	pid := s.pid
	marked := fromServer && kind == 'C' && s.marked
	found, early := false, false
	if !fromServer && ready {
		found, early = s.proxy.contains(message)
	}
	s.marked = s.marked && !marked || found && !early
	s.mu.Unlock()
	if !ready {
		return true
	}
	fault, ok := s.proxy.meets(kind)
	if marked || early {
		fault, ok = s.proxy.meet(kind), true
	}
	if !ok {
		return true
	}
	switch fault {
	case Cut:
		return false
	case Kill:
		s.proxy.kill(pid)
	case Freeze:
		s.mu.Lock()
		s.frozen = true
		s.mu.Unlock()
		s.proxy.mu.Lock()
		s.proxy.frozen = append(s.proxy.frozen, s.client, s.server)
		s.proxy.mu.Unlock()
	}
	return true
}

// readMessage reads one message with its header. The first one of a client has no type.
func readMessage(from io.Reader, start bool) (kind byte, message []byte, err error) {
	header := 5
	if start {
		header = 4
	}
	message = make([]byte, header)
	if _, err = io.ReadFull(from, message); err != nil {
		return 0, nil, err
	}
	if !start {
		kind = message[0]
	}
	length := int(binary.BigEndian.Uint32(message[header-4:])) - 4
	message = append(message, make([]byte, length)...)
	_, err = io.ReadFull(from, message[header:])
	return kind, message, err
}
