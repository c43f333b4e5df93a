//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/devpg"
	"github.com/backfillhq/go/internal/sqlstate"
)

// The fleet's database and role. It is no superuser, so that the harness gets a connection when all
// are taken.
const (
	database = "faults"
	role     = "fleet"
	password = "fleet" // of a server that listens on the loopback interface, for some minutes
)

// server is a private PostgreSQL with normal durability, which can be restarted, or the leader of a
// cluster.
type server struct {
	folder  string
	pg      *devpg.Server // nil: there is a cluster
	cluster *cluster

	mu    sync.Mutex
	url   string  // of the server that takes writes, as a superuser
	links []*link // which lead to it
}

func startServer(ctx context.Context, o options, folder string) (*server, error) {
	// An existing server is nothing to try faults on.
	for _, name := range []string{"DATABASE_URL", "PGHOST", "PGSERVICE", "PGDATABASE"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
	s := &server{folder: filepath.Join(folder, "pg")}
	var err error
	if o.cluster {
		s.cluster, err = startCluster(ctx, s.folder, s.lead)
	} else {
		err = s.start(ctx)
	}
	if err != nil {
		return nil, err
	}
	err = s.execute(ctx, fmt.Sprintf("create role %s login password '%s'", role, password), fmt.Sprintf("create database %s owner %s", database, role))
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *server) start(ctx context.Context) (err error) {
	if s.pg, err = devpg.Start(ctx, devpg.Config{DataDir: s.folder}); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.lead(s.pg.URL)
	return nil
}

// lead says which server takes writes now. New connections of the links lead to it.
func (s *server) lead(url string) {
	s.mu.Lock()
	s.url = url
	links := slices.Clone(s.links)
	s.mu.Unlock()
	for _, l := range links {
		l.lead(s.address())
	}
}

// serve has a link lead to the server.
func (s *server) serve(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links = append(s.links, l)
}

// superuser is the URL of the server that takes writes.
func (s *server) superuser() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

func (s *server) stop() error {
	if s.cluster != nil {
		s.cluster.stop()
		return nil
	}
	if err := s.pg.Stop(); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

// restart stops the server, in order or as if it had crashed, and starts it again after a while.
func (s *server) restart(ctx context.Context, immediate bool, away time.Duration) error {
	if immediate {
		if err := s.crash(); err != nil {
			return err
		}
	}
	if err := s.stop(); err != nil {
		return err
	}
	if err := pause(ctx, away); err != nil {
		return err
	}
	return s.start(ctx)
}

// postmaster is the process of a server's data folder.
func postmaster(data string) (pid int, err error) {
	content, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err == nil {
		line, _, _ := strings.Cut(string(content), "\n")
		pid, err = strconv.Atoi(line)
	}
	if err != nil {
		return 0, fmt.Errorf("find the postmaster: %w", err)
	}
	return pid, nil
}

// crash has all of the server's processes end at once, without a checkpoint.
func (s *server) crash() error {
	pid, err := postmaster(filepath.Join(s.folder, "data"))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("crash PostgreSQL: %w", err)
	}
	// The file goes with the server.
	for range 1000 {
		if _, err := os.Stat(filepath.Join(s.folder, "data", "postmaster.pid")); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("crash PostgreSQL: it does not end")
}

// address is host:port.
func (s *server) address() string {
	u, err := url.Parse(s.superuser())
	if err != nil {
		return ""
	}
	return u.Host
}

// urlAt is how the fleet connects to a database, at an address that leads to the server or to the
// pooler.
func urlAt(address, name string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", role, password, address, name)
}

// adminTimeout is for each thing that the harness does in the database.
const adminTimeout = 10 * time.Second

// with connects to the fleet's database as a superuser.
func (s *server) with(ctx context.Context, name string, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	config, err := pgx.ParseConfig(s.superuser())
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	config.Database = name
	conn, err := pgx.ConnectConfig(ctx, config)
	for sqlstate.Of(err) == "53300" && pause(ctx, 50*time.Millisecond) == nil { // also those of superusers, while many try to connect
		conn, err = pgx.ConnectConfig(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(ctx, conn)
}

func (s *server) execute(ctx context.Context, statements ...string) error {
	return s.with(ctx, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
}

// terminate ends all sessions of the fleet.
func (s *server) terminate(ctx context.Context) error {
	return s.execute(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where usename = '"+role+"'")
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
