//go:build unix

package devpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A free port can be taken before the server has it, so that is tried again.
const portAttempts = 5

var errPortTaken = errors.New("the port was taken")

// startPrivate starts a server in the folder of cfg, else in one of its own.
func startPrivate(ctx context.Context, cfg Config) (url string, stop func() error, err error) {
	if cfg.DataDir != "" {
		return startKept(ctx, cfg)
	}
	c := &cluster{password: rand.Text()}
	if c.install, err = newSearch(cfg).find(ctx); err != nil {
		return "", nil, err
	}
	if c.account, err = serverAccount(); err != nil {
		return "", nil, err
	}
	reap(folderBases())
	if c.folder, err = newFolder(); err != nil {
		return "", nil, err
	}
	c.dir = c.folder.dir
	var p *process
	if err = c.create(ctx); err == nil {
		p, err = c.start(ctx)
	}
	if err != nil {
		err = fmt.Errorf("start PostgreSQL %s: %w", c.install.version, err)
		return "", nil, errors.Join(err, c.folder.remove())
	}
	return c.url, func() error { return errors.Join(p.stop(false), c.folder.remove()) }, nil
}

// start starts the server on a free port, and waits until it answers at c.url.
func (c *cluster) start(ctx context.Context) (*process, error) {
	for attempt := 1; ; attempt++ {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		p, err := c.launch(port)
		if err == nil {
			if err = c.ready(ctx, p, port); err == nil {
				return p, nil
			}
			err = errors.Join(err, p.stop(c.keep()))
		}
		if !errors.Is(err, errPortTaken) || attempt == portAttempts {
			return nil, c.failure(err)
		}
	}
}

// ready waits for the server, and gives an ephemeral one its own password.
func (c *cluster) ready(ctx context.Context, p *process, port int) error {
	conn, err := c.connect(ctx, p, port)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))

	// Another server may have got the port first.
	var data string
	if err := conn.QueryRow(ctx, "select current_setting('data_directory')").Scan(&data); err != nil {
		return fmt.Errorf("ask the server for its data folder: %w", err)
	}
	if data != c.data() {
		return errPortTaken
	}
	if !c.keep() {
		// Clusters of one template start with one password.
		password := rand.Text()
		if _, err := conn.Exec(ctx, "alter role postgres password '"+password+"'"); err != nil {
			return fmt.Errorf("set the password: %w", err)
		}
		c.password = password
	}
	c.url = c.urlAt(port)
	return nil
}

// connect connects as soon as the server answers.
func (c *cluster) connect(ctx context.Context, p *process, port int) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(c.urlAt(port))
	if err != nil {
		return nil, err
	}
	config.ConnectTimeout = 5 * time.Second
	var conn *pgx.Conn
	var last error
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		if conn, last = pgx.ConnectConfig(ctx, config); last == nil {
			return true, nil
		}
		select {
		case <-p.exited:
		default:
			return false, nil
		}
		log, err := os.ReadFile(c.log())
		if err == nil && strings.Contains(string(log), "could not create any TCP/IP sockets") {
			return false, errPortTaken
		}
		return false, errors.New("the server exited")
	})
	if err != nil && ctx.Err() != nil {
		err = errors.Join(fmt.Errorf("wait for the server: %w", err), last)
	}
	return conn, err
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

// poll calls done until it says yes or fails, or ctx ends.
func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(every):
		}
	}
}

// waitLock takes the lock at path as soon as nobody has it.
func waitLock(ctx context.Context, path string) (lock *fileLock, err error) {
	err = poll(ctx, 20*time.Millisecond, func() (bool, error) {
		lock, err = tryLock(path)
		return lock != nil, err
	})
	return lock, err
}

// writeFile writes a file that is either whole or not there. One process at a time may do that.
func writeFile(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
