//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The pooler's two databases: one in session mode, and one in transaction mode, where workers hear
// no notifications and poll.
const (
	sessionDatabase     = "faults_session"
	transactionDatabase = "faults_transaction"
)

// pooler is a PgBouncer before the server. When it ends it is started again, as systemd does.
type pooler struct {
	program, ini string
	address      string
	upstream     *link // to the server, wherever that is
	log          *os.File
	crashed      func(state string)

	mu       sync.Mutex
	cmd      *exec.Cmd
	killed   bool
	away     time.Duration // how long it is away after its next end
	stopping bool
	stopped  chan struct{}
}

var errNoPooler = errors.New("there is no pgbouncer")

// startPooler returns errNoPooler where PgBouncer is not installed.
func startPooler(ctx context.Context, folder string, s *server, crashed func(state string)) (*pooler, error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // where Debian puts it, which users' paths lack
		if _, err := os.Stat(program); err != nil {
			return nil, errNoPooler
		}
	}
	p := &pooler{program: program, ini: filepath.Join(folder, "pgbouncer.ini"), crashed: crashed, stopped: make(chan struct{})}
	if p.upstream, err = newLink(ctx, s.address()); err != nil {
		return nil, err
	}
	if p.address, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	upstreamHost, upstreamPort, err := net.SplitHostPort(p.upstream.address)
	if err != nil {
		return nil, fmt.Errorf("start the pooler: %w", err)
	}
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		return nil, fmt.Errorf("start the pooler: %w", err)
	}
	line := func(name, mode string) string {
		return fmt.Sprintf("%s = host=%s port=%s dbname=%s user=%s password=%s pool_mode=%s", name, upstreamHost, upstreamPort, database, role, password, mode)
	}
	// server_login_retry: its default lets the pooler itself be away for 15 s after each restart of
	// the server.
	text := fmt.Sprintf("[databases]\n%s\n%s\n[pgbouncer]\nlisten_addr = %s\nlisten_port = %s\nunix_socket_dir =\nauth_type = any\n"+
		"default_pool_size = 20\nserver_login_retry = 1\nignore_startup_parameters = extra_float_digits\n",
		line(sessionDatabase, "session"), line(transactionDatabase, "transaction"), host, port)
	if err := os.WriteFile(p.ini, []byte(text), 0o644); err != nil { //nolint:gosec // its own user reads it, and nothing in it is secret
		return nil, fmt.Errorf("start the pooler: %w", err)
	}
	if p.log, err = os.Create(filepath.Join(folder, "pgbouncer.log")); err != nil {
		return nil, fmt.Errorf("start the pooler: %w", err)
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	go p.supervise()
	return p, p.answers(ctx)
}

var errStopping = errors.New("the pooler is stopped")

func (p *pooler) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping { // nobody would end it
		return errStopping
	}
	cmd := exec.Command(p.program, p.ini)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 { // as whom it refuses to run
		nobody, err := account("nobody")
		if err != nil {
			return fmt.Errorf("start the pooler: %w", err)
		}
		cmd.SysProcAttr.Credential = nobody
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the pooler: %w", err)
	}
	p.cmd, p.killed, p.away = cmd, false, restartAfter
	return nil
}

// account is a user of the system.
func account(name string) (*syscall.Credential, error) {
	found, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (p *pooler) supervise() {
	defer close(p.stopped)
	for {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		p.mu.Lock()
		stopping, killed, away := p.stopping, p.killed, p.away
		p.mu.Unlock()
		if stopping {
			return
		}
		if !killed {
			p.crashed(p.cmd.ProcessState.String())
		}
		time.Sleep(away)
		switch err := p.start(); {
		case errors.Is(err, errStopping):
			return
		case err != nil:
			p.crashed(err.Error())
			return
		}
	}
}

// kill ends it without a word to anybody, for a while.
func (p *pooler) kill(away time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed, p.away = true, away
	p.cmd.Process.Kill()
}

func (p *pooler) stop() {
	p.mu.Lock()
	p.stopping = true
	p.cmd.Process.Kill()
	p.mu.Unlock()
	<-p.stopped
	p.upstream.close()
}

// answers waits until it does.
func (p *pooler) answers(ctx context.Context) error {
	for range 1000 {
		if conn, err := new(net.Dialer).DialContext(ctx, "tcp4", p.address); err == nil {
			return conn.Close()
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the pooler does not answer: see pgbouncer.log")
}

// hangs reports whether nothing answers at an address to the question for TLS, for which a pooler
// needs no server, within a time.
func hangs(address string, within time.Duration) bool {
	conn, err := net.DialTimeout("tcp4", address, within)
	if err != nil {
		return false // it has ended, and is started again
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within)) // else the read says so
	if _, err = conn.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}
