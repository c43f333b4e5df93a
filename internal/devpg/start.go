package devpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A free port can be taken before the server has it, so that is tried again.
const portAttempts = 5

var errPortTaken = errors.New("the port was taken")

// startEphemeral starts a server in a folder of its own.
func startEphemeral(ctx context.Context, cfg config) (url string, stop func() error, err error) {
	found, err := newSearch(cfg.major).find(ctx)
	if err != nil {
		return "", nil, err
	}
	who, err := serverAccount()
	if err != nil {
		return "", nil, err
	}
	reap(folderBases())
	for range portAttempts {
		c := &cluster{install: found, account: who, password: newPassword()}
		url, stop, err = c.startIn(ctx)
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		return "", nil, fmt.Errorf("start PostgreSQL %s: %w", found.version, err)
	}
	return url, stop, nil
}

// startIn makes the folder of an ephemeral cluster and starts its server.
func (c *cluster) startIn(ctx context.Context) (string, func() error, error) {
	var err error
	if c.dir, c.lock, err = newFolder(); err != nil {
		return "", nil, err
	}
	if err := c.create(ctx); err != nil {
		return "", nil, errors.Join(err, removeLocked(c.dir, c.lock))
	}
	url, p, err := c.start(ctx)
	if err != nil {
		if p == nil {
			err = errors.Join(err, removeLocked(c.dir, c.lock))
		}
		return "", nil, err
	}
	return url, func() error { p.leave(); return p.wait() }, nil
}

// start starts the server and waits until it answers. A failed start is cleaned
// up, unless the process it returns is nil.
func (c *cluster) start(ctx context.Context) (string, *process, error) {
	port, err := freePort(ctx)
	if err != nil {
		return "", nil, err
	}
	p, err := c.launch(port)
	if err != nil {
		return "", nil, c.failure(err)
	}
	if err := c.ready(ctx, p, port); err != nil {
		err = c.failure(err)
		p.leave()
		return "", p, errors.Join(err, p.wait())
	}
	return c.url(port), p, nil
}

// ready waits for the server, and gives an ephemeral one its own password.
func (c *cluster) ready(ctx context.Context, p *process, port int) error {
	config, err := pgx.ParseConfig(c.url(port))
	if err != nil {
		return err
	}
	config.ConnectTimeout = 5 * time.Second
	var conn *pgx.Conn
	var last error
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		if conn, last = pgx.ConnectConfig(ctx, config); last == nil {
			return true, nil
		}
		if !p.exited() {
			return false, nil
		}
		if log, err := os.ReadFile(c.log()); err == nil && strings.Contains(string(log), "could not create any TCP/IP sockets") {
			return false, errPortTaken
		}
		return false, errors.New("the server exited")
	})
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(fmt.Errorf("wait for the server: %w", err), last)
		}
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))

	// Another server may have got the port first.
	var data string
	if err := conn.QueryRow(ctx, "select current_setting('data_directory')").Scan(&data); err != nil {
		return fmt.Errorf("ask the server for its data folder: %w", err)
	}
	if data != filepath.ToSlash(c.data()) {
		return errPortTaken
	}
	if c.keep {
		return nil
	}
	// Clusters of one template start with one password.
	password := newPassword()
	if _, err := conn.Exec(ctx, "alter role postgres password '"+password+"'"); err != nil {
		return fmt.Errorf("set the password: %w", err)
	}
	c.password = password
	return nil
}

// freePort is a port of the loopback interface that nobody has now.
func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return port, listener.Close()
}
