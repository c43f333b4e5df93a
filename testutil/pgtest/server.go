package pgtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/devpg"
)

// maxIdle is how many connections to the server are kept between tests.
const maxIdle = 4

// A server is where the databases of this test binary are.
type server struct {
	url        string
	disposable bool   // thrown away with everything in it: nothing needs to be dropped
	role       string // ours, on a server that is not

	mu        sync.Mutex
	idle      []*pgx.Conn
	templates map[string]*template // by schema
}

// testServer is the one server of the process. It ends with the process, so that nothing is needed
// at the end of the tests.
var testServer = sync.OnceValues(func() (*server, error) {
	// Not a test's context: the server outlives the first test.
	ctx, cancel := context.WithTimeout(context.Background(), createTimeout)
	defer cancel()
	s, err := startServer(ctx)
	if err != nil {
		return nil, err
	}
	s.templates = map[string]*template{}
	if !s.disposable {
		if err := s.checkForeign(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
})

func startServer(ctx context.Context) (*server, error) {
	if start := chosenStart(); start != nil {
		return startChosen(ctx, start)
	}
	var cfg devpg.Config
	if text := os.Getenv("BACKFILL_TEST_PG_MAJOR"); text != "" {
		var err error
		if cfg.Major, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("BACKFILL_TEST_PG_MAJOR=%s is not a number", text)
		}
	}
	started, err := devpg.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &server{url: started.URL, disposable: started.Owned()}, nil
}

// do calls f with a connection to the server's own database.
func (s *server) do(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := s.take(ctx)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	defer s.put(conn)
	return f(conn)
}

func (s *server) take(ctx context.Context) (*pgx.Conn, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		conn := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return conn, nil
	}
	s.mu.Unlock()
	return pgx.Connect(ctx, s.url)
}

func (s *server) put(conn *pgx.Conn) {
	s.mu.Lock()
	if !conn.IsClosed() && len(s.idle) < maxIdle {
		s.idle = append(s.idle, conn)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	conn.Close(context.Background())
}

// createDatabase makes a database, from a template unless that is "".
func (s *server) createDatabase(ctx context.Context, name, template string) error {
	if template == "" {
		template = "template0" // Nobody can have put something in it.
	}
	return s.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "create database "+quoted(name)+" template "+quoted(template)+s.strategy(conn))
		if err != nil {
			return fmt.Errorf("create database: %w", err)
		}
		return nil
	})
}

// strategy says how to copy a template. Since PostgreSQL 15 the default is through the log, which
// takes twice the CPU time of copying files. Its advantage, no checkpoint, only matters where
// checkpoints write to a disk.
func (s *server) strategy(conn *pgx.Conn) string {
	var major int
	if _, err := fmt.Sscan(conn.PgConn().ParameterStatus("server_version"), &major); err != nil || major < 15 || !s.disposable {
		return ""
	}
	return " strategy file_copy"
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
