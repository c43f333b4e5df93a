package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
)

// reading is an answer under way: facts are read when they are asked for.
type reading struct {
	ctx    context.Context //nolint:containedctx // of the question
	reader *pg.Reader

	sent, received time.Time // around the server's answer with its clock, on this machine's
	server         query.ServerRow
	now            time.Time
	relations      map[string]query.RelationsRow
	workers        []query.WhyWorkersRow
	workersKnown   bool // and not only some of them
}

// The names of Graphile Worker's relations.
const (
	jobsTable   = "_private_jobs"
	queuesTable = "_private_job_queues"
	tasksTable  = "_private_tasks"
	jobsView    = "jobs"
)

// fact reads a fact. known is false if it could not be read, which is no error.
func fact[R any](r *reading, what string, read func(*query.Queries, context.Context) (R, error)) (value R, known bool, err error) {
	value, err = pg.Fact(r.ctx, r.reader, what, read)
	if errors.Is(err, pg.ErrMissing) {
		return value, false, nil
	}
	return value, err == nil, err
}

// miss notes a fact that is not asked for, because it cannot be read.
func (r *reading) miss(what, why string) {
	r.reader.Missing = append(r.reader.Missing, pg.Missing{What: what, Why: why})
}

// can reports whether there is a table that this role may read, and notes if it may not.
func (r *reading) can(table, what string) bool {
	relation, there := r.relations[table]
	if there && !relation.Readable {
		r.miss(what, "role "+r.server.Role+" needs the right to select from "+r.table(table))
	}
	return there && relation.Readable
}

// table is the name of a table in SQL.
func (r *reading) table(name string) string {
	return r.reader.Name(name)
}

// readServer reads what everything else depends on.
func (r *reading) readServer() (err error) {
	r.sent = time.Now()
	if r.server, _, err = fact(r, "the server's clock", (*query.Queries).Server); err != nil {
		return err
	}
	r.received, r.now = time.Now(), r.server.Now.Time.UTC()
	rows, _, err := fact(r, "the tables", func(q *query.Queries, ctx context.Context) ([]query.RelationsRow, error) {
		return q.Relations(ctx, r.reader.Schema())
	})
	r.relations = make(map[string]query.RelationsRow, len(rows))
	for _, row := range rows {
		r.relations[row.Name] = row
	}
	return err
}

// workersTable is there where backfill migrate was run.
const workersTable = "backfill_workers"

// readWorkers reads the rows of workers. Where there is no table of them, there are no Go workers.
func (r *reading) readWorkers() (err error) {
	relation, there := r.relations[workersTable]
	switch {
	case !there:
		r.workersKnown = true
	case r.can(workersTable, "the Go workers"):
		r.workers, r.workersKnown, err = fact(r, "the Go workers", (*query.Queries).WhyWorkers)
		if relation.Hidden {
			r.workersKnown = false
			r.miss("the Go workers", "row level security hides some or all of them from role "+r.server.Role)
		}
	}
	return err
}

// seesSessions reports whether this role is told what sessions of other roles do, and notes if not.
func (r *reading) seesSessions() bool {
	if !r.server.SeesSessions {
		r.miss("what sessions of other roles do", "role "+r.server.Role+" needs to be a member of pg_read_all_stats")
	}
	return r.server.SeesSessions
}

// worker returns the worker that has locked something.
func (r *reading) worker(lockedBy string) *query.WhyWorkersRow {
	for i := range r.workers {
		if id := r.workers[i].ID; lockedBy == id || strings.HasPrefix(lockedBy, id+".") {
			return &r.workers[i]
		}
	}
	return nil
}

// skewLimit is how far two clocks may differ before it is said.
const skewLimit = 2 * time.Second

// compareClocks says that this machine's clock differs from the server's; "": it does not, much.
func (r *reading) compareClocks() string {
	skew := time.Duration(0)
	switch { // the server has read its clock at some moment between the two
	case r.now.Before(r.sent):
		skew = r.now.Sub(r.sent)
	case r.now.After(r.received):
		skew = r.now.Sub(r.received)
	}
	if skew.Abs() <= skewLimit {
		return ""
	}
	side := "ahead of"
	if skew < 0 {
		side = "behind"
	}
	return fmt.Sprintf("The database's clock is %s %s this machine's. The database's decides, and all times here are its.", span(skew.Abs()), side)
}

// place names a worker in a sentence.
func (r *reading) place(w *query.WhyWorkersRow) string {
	return fmt.Sprintf("worker %s on %s, pid %d", w.ID, orUnknown(w.Host), w.Pid)
}

func orUnknown(host string) string {
	if host == "" {
		return "an unknown host"
	}
	return host
}

// life says whether a worker lives.
func (r *reading) life(w *query.WhyWorkersRow) string {
	switch {
	case w.DeadAt.Valid:
		return "which died at " + clock(w.DeadAt.Time, r.now)
	case silence(*w) > deadAfter:
		return "whose last heartbeat was " + span(silence(*w)) + " ago: no live worker has declared it dead yet"
	case silence(*w) > deadAfter/3:
		return "whose last heartbeat was " + span(silence(*w)) + " ago: after 30 s of silence others declare it dead"
	default:
		return "which lives (heartbeat " + span(silence(*w)) + " ago)"
	}
}

// session names a session in a sentence.
func (r *reading) session(s Session) string {
	application := "no application_name"
	if s.Application != "" {
		application = "application_name " + strconv.Quote(s.Application)
	}
	if s.Since.IsZero() {
		return fmt.Sprintf("session %d, of which this role may see no more,", s.PID)
	}
	return fmt.Sprintf("session %d (%s, role %s, %s, in its transaction %s)", s.PID, application, s.Role, s.State, Time{Time: s.Since}.since(r.now))
}

// backfill is a command line of this program, for the schema that was asked about.
func (r *reading) backfill(command string) string {
	if schema := r.reader.Schema(); schema != pg.DefaultSchema {
		verb, rest, _ := strings.Cut(command, " ")
		command = verb + " --schema " + shellQuote(schema) + " " + rest
	}
	return "backfill " + command
}
