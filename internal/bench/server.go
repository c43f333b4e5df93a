package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/devpg"
)

// serverSettings are those of the private server; all else is PostgreSQL's default, durability above all. A benchmark of 200,000
// jobs on 128 MB of shared buffers would measure the buffers. Connections: 100 callers, and some.
var serverSettings = []string{
	"alter system set shared_buffers = '1GB'",
	"alter system set max_wal_size = '4GB'",
	"alter system set max_connections = 200",
}

// server is the server that is measured on.
type server struct {
	pg     *devpg.Server
	folder string // with its data; "": not ours, or devpg's
	url    string // of a database of our own
	name   string // of that database
}

// startServer finds or starts a server and makes a database on it. A durable one is on disk, with our settings.
func startServer(ctx context.Context, opts options, durable bool) (*server, error) {
	s := &server{name: "backfill_bench_" + strings.ToLower(rand.Text()[:12])}
	var err error
	if durable {
		err = s.startDurable(ctx, opts)
	} else if s.pg, err = devpg.Start(ctx, devpg.Config{}); err != nil {
		err = fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err == nil {
		err = execute(ctx, s.pg.URL, "create database "+s.name)
	}
	if err != nil {
		return nil, errors.Join(err, s.remove())
	}
	s.url = withDatabase(s.pg.URL, s.name)
	return s, nil
}

func (s *server) startDurable(ctx context.Context, opts options) error {
	base := diskFolder(opts.dir)
	removeOld(base)
	folder, err := os.MkdirTemp(base, folderPrefix)
	if err != nil {
		return fmt.Errorf("make a folder for the server: %w", err)
	}
	s.folder = folder
	start := func() (err error) {
		if s.pg, err = devpg.Start(ctx, devpg.Config{DataDir: filepath.Join(folder, "pg")}); err != nil {
			return fmt.Errorf("start PostgreSQL: %w", err)
		}
		return nil
	}
	if err := start(); err != nil || !s.pg.Owned() {
		return err
	}
	settings := serverSettings
	if opts.statements {
		settings = append(slices.Clone(settings), preloadStatements)
	}
	if err := execute(ctx, s.pg.URL, settings...); err != nil {
		return err
	}
	// Two of the settings need a restart.
	if err := s.pg.Stop(); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	return start()
}

// stop removes everything that startServer made.
func (s *server) stop() error {
	if s.pg.Owned() {
		return s.remove()
	}
	// The context may have ended: that is no reason to leave a database behind on somebody's server.
	err := execute(context.Background(), s.pg.URL,
		"select pg_terminate_backend(pid) from pg_stat_activity where datname = '"+s.name+"'", "drop database if exists "+s.name)
	return errors.Join(err, s.remove())
}

func (s *server) remove() error {
	var err error
	if s.pg != nil {
		err = s.pg.Stop()
	}
	if s.folder != "" {
		err = errors.Join(err, os.RemoveAll(s.folder))
	}
	return err
}

// diskFolder is where the server's data goes. The folder for temporary files is often in memory, /var/tmp hardly ever is.
func diskFolder(base string) string {
	if base != "" {
		return base
	}
	if info, err := os.Stat("/var/tmp"); err == nil && info.IsDir() {
		return "/var/tmp"
	}
	return os.TempDir()
}

const folderPrefix = "backfill-bench-"

// removeOld removes folders of benchmarks that were killed. None runs for a day.
func removeOld(base string) {
	folders, err := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
	if err != nil {
		return
	}
	for _, folder := range folders {
		if info, err := os.Stat(folder); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(folder) // it may be somebody else's
		}
	}
}

func execute(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// withDatabase is a connection string, of either kind, for another database of the same server.
func withDatabase(conn, database string) string {
	if !strings.HasPrefix(conn, "postgres://") && !strings.HasPrefix(conn, "postgresql://") {
		return conn + " dbname=" + database // the last one counts
	}
	scheme, rest, _ := strings.Cut(conn, "://")
	rest, query, asked := strings.Cut(rest, "?")
	host, _, _ := strings.Cut(rest, "/")
	result := scheme + "://" + host + "/" + url.PathEscape(database)
	if asked {
		result += "?" + query
	}
	return result
}
