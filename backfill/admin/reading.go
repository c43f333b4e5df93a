package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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
	exact          bool // all jobs were counted
}

// read runs an answer, whose facts agree with each other. It has its time once it has a connection.
func (a *Admin) read(ctx context.Context, answer func(*reading) error) error {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout+answerTimeout)
	defer cancel()
	return pg.Read(ctx, a.pool, a.schema, func(reader *pg.Reader) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		r := &reading{ctx: ctx, reader: reader}
		if err := r.readServer(); err != nil {
			return err
		}
		_, breaking, _, err := r.readLedger()
		if err == nil && breaking > pg.NewestRevision {
			err = fmt.Errorf("revision %d of the schema %s is a breaking change that this version does not know: it knows those up to %d. Use a newer version of backfill",
				breaking, a.schema, pg.NewestRevision)
		}
		if err != nil {
			return err
		}
		return answer(r)
	})
}

// seesJobs reports whether this role may read jobs at all, and notes what it may not.
func (r *reading) seesJobs() bool {
	jobs, there := r.relations[jobsTable]
	if !there {
		r.miss("the jobs", "the schema "+r.reader.Schema()+" has none: it has no table "+jobsTable)
		return false
	}
	for _, table := range []string{jobsTable, queuesTable, tasksTable} {
		if !r.can(table, "the jobs") {
			return false
		}
	}
	if jobs.Hidden {
		r.miss("the jobs", "row level security hides some or all of them from role "+r.server.Role)
	}
	return true
}

// UnreadableError says why something could not be read, of which only that is known.
type UnreadableError struct{ Missing Missing }

func (e *UnreadableError) Error() string {
	return e.Missing.What + " could not be read: " + e.Missing.Why
}

// unreadable is the error for the last thing that could not be read.
func (r *reading) unreadable() error {
	return &UnreadableError{Missing(r.reader.Missing[len(r.reader.Missing)-1])}
}

// missing is what could not be read, each once.
func (r *reading) missing() (all []Missing) {
	for _, missing := range r.reader.Missing {
		if m := Missing(missing); !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
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

// readLedger returns the highest revision that is installed, and the highest one that is a breaking
// change.
func (r *reading) readLedger() (highest, breaking int, known bool, err error) {
	if !r.can("migrations", "the revision of the schema") {
		return 0, 0, false, nil
	}
	rows, known, err := fact(r, "the revision of the schema", (*query.Queries).Ledger)
	for _, row := range rows {
		if highest = max(highest, int(row.ID)); row.Breaking {
			breaking = max(breaking, int(row.ID))
		}
	}
	return highest, breaking, known, err
}

// newer says that the schema is newer than what is known here; "": it is not.
func (r *reading) newer(highest int) string {
	if highest <= pg.NewestRevision {
		return ""
	}
	return fmt.Sprintf("The schema is at revision %d of Graphile Worker's, which this version does not know: it knows those up to %d. The newer ones are not "+
		"marked as breaking changes.", highest, pg.NewestRevision)
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
		if r.server.Standby { // what the primary has written comes late
			least := int64(math.MaxInt64)
			for _, w := range r.workers {
				if !w.DeadAt.Valid {
					least = min(least, w.SilentUs)
				}
			}
			for i := range r.workers {
				r.workers[i].SilentUs = max(r.workers[i].SilentUs-least, 0)
			}
		}
		if relation.Hidden {
			r.workersKnown = false
			r.miss("the Go workers", "row level security hides some or all of them from role "+r.server.Role)
		}
	}
	return err
}

// seesSessions reports whether this role is told what sessions of other roles do, and notes if not.
func (r *reading) seesSessions() bool {
	switch {
	case r.server.Standby:
		r.miss("what sessions do", "the server is a standby: the sessions of workers and applications are on the primary")
		return false
	case !r.server.SeesSessions:
		r.miss("what sessions of other roles do", "role "+r.server.Role+" needs to be a member of pg_read_all_stats")
		return false
	}
	return true
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
	if s.PID == 0 {
		return fmt.Sprintf("the prepared transaction %s (role %s, %s)", strconv.Quote(s.Application), s.Role, Time{Time: s.Since}.since(r.now))
	}
	application := "no application_name"
	if s.Application != "" {
		application = "application_name " + strconv.Quote(s.Application)
	}
	if s.Since.IsZero() {
		return fmt.Sprintf("session %d, of which this role may see no more,", s.PID)
	}
	return fmt.Sprintf("session %d (%s, role %s, %s, in its transaction %s)", s.PID, application, s.Role, s.State, Time{Time: s.Since}.since(r.now))
}

// giveTask and giveQueue give jobs a row of a name again. Another row may have the name by now.
func (r *reading) giveTask(id int64) Remedy {
	return r.giveName(id, tasksTable, "identifier", "task_id", "the task that the jobs were enqueued for")
}

func (r *reading) giveQueue(id int64) Remedy {
	return r.giveName(id, queuesTable, "queue_name", "job_queue_id", "the queue")
}

func (r *reading) giveName(id int64, table, name, column, of string) Remedy {
	return Remedy{"Give the jobs a row again, with the name of " + of + ":", fmt.Sprintf(
		"insert into %[1]s (%[2]s) values ('NAME') on conflict do nothing; update %[4]s set %[3]s = (select id from %[1]s where %[2]s = 'NAME') where %[3]s = %[5]d and locked_at is null;",
		r.table(table), name, column, r.table(jobsTable), id)}
}

// freeQueue frees a queue that was locked at this time, if no job of it is locked.
func (r *reading) freeQueue(name string, since Time) Remedy {
	at := since.String()
	if since.Infinite == 0 {
		at = since.Time.Format("2006-01-02T15:04:05.999999Z07:00")
	}
	return Remedy{"To free this queue alone:", fmt.Sprintf("update %s as s set locked_at = null, locked_by = null where s.queue_name = %s and s.locked_at = '%s' "+
		"and not exists (select from %s as j where j.job_queue_id = s.id and j.locked_at is not null);", r.table(queuesTable), sqlQuote(name), at, r.table(jobsTable))}
}

// backfill is a command line of this program, for the schema that was asked about.
func (r *reading) backfill(command string) string {
	if schema := r.reader.Schema(); schema != pg.DefaultSchema {
		words := 1
		if strings.HasPrefix(command, "dlq ") {
			words = 2
		}
		parts := strings.SplitN(command, " ", words+1)
		verb, rest := strings.Join(parts[:words], " "), strings.Join(parts[words:], " ")
		command = verb + " --schema " + shellQuote(schema)
		if rest != "" {
			command += " " + rest
		}
	}
	return "backfill " + command
}
