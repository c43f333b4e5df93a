// Package admin answers what operators ask about a database of jobs: why one does not run, and what
// it does; and what is wrong with it. It reads Graphile Worker's tables, with those of backfill or
// without, in revisions 18 to 20 and newer ones that are not breaking, also on a standby, through a
// transaction pooler, and as a role that may read only some of it. It needs no worker, and no line
// of Go in the fleet.
package admin

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/pg"
)

const (
	// answerTimeout is how long an answer may take, whatever the database does.
	answerTimeout = 5 * time.Second
	// waitTimeout is how long it may wait before for one of the connections.
	waitTimeout = 10 * time.Second
)

// Admin answers over connections of its own, two at most. It is safe for use by several goroutines.
type Admin struct {
	pool      *pgxpool.Pool
	schema    string
	authorize Authorize
	spare     int64                        // bytes that an index may have for nothing
	byRole    bool                         // authorize looks at no target
	hide      func(task, path string) bool // nil: DefaultRedaction
	writer    *pg.Admin
	keeps     keeping
	carrying  *sync.Map    // of a handler's: ids of operations that this process carries on
	logger    *slog.Logger // of a handler's
}

// Option changes an Admin.
type Option func(*Admin)

// WithSchema says which schema the jobs are in; graphile_worker unless set.
func WithSchema(name string) Option { return func(a *Admin) { a.schema = name } }

// Open returns an Admin for the database of a URL, or of the PG* variables if it is empty. It
// connects when it is asked something. Close it.
func Open(databaseURL string, options ...Option) (*Admin, error) {
	a := &Admin{schema: pg.DefaultSchema, spare: spareBytes}
	for _, option := range options {
		option(a)
	}
	if err := pg.CheckSchemaName(a.schema); err != nil {
		return nil, err
	}
	config, err := pg.ReaderConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.MinConns, config.MinIdleConns = 2, 0, 0
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "backfill admin"
	}
	if a.pool, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return nil, fmt.Errorf("open connections: %w", err)
	}
	a.writer = pg.NewAdmin(a.pool, a.schema)
	return a, nil
}

// Close closes its connections.
func (a *Admin) Close() { pg.ClosePool(a.pool) }
