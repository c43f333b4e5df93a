package pg

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

// insertTries bounds how often an insert is sent again because a name or a key was in other hands for a moment.
const insertTries = 20

// Inserter inserts jobs; it implements enqueue.Inserter.
type Inserter struct {
	pool      *pgxpool.Pool
	texts     *texts
	pipelines bool
	access    schema.Access
}

var _ enqueue.Inserter = (*Inserter)(nil)

// NewInserter returns an inserter on a client's pool.
func NewInserter(pool *pgxpool.Pool, schema string) *Inserter {
	return &Inserter{pool: pool, texts: newTexts(schema), pipelines: canPipeline(pool)}
}

// Insert implements enqueue.Inserter: one round trip and one transaction, with rare exceptions. It is atomic except that a key
// which a worker took at the last moment is inserted by another transaction right after.
func (i *Inserter) Insert(ctx context.Context, specs []wire.Spec) ([]*wire.Job, error) {
	if len(specs) == 1 && specs[0].Key == "" && specs[0].Queue == "" && i.access == schema.WritesTables {
		job, err := i.insertOne(ctx, specs[0])
		if !errors.Is(err, pgx.ErrNoRows) {
			return []*wire.Job{job}, rejected(i.explain(err))
		}
	}
	jobs, err := i.insert(ctx, pgxSession{i.pool}, specs, true)
	return jobs, rejected(err)
}

// InsertTx inserts jobs in a transaction of the caller's.
func (i *Inserter) InsertTx(ctx context.Context, tx pgx.Tx, specs []wire.Spec) ([]*wire.Job, error) {
	return i.insert(ctx, pgxSession{tx}, specs, false)
}

// InsertSQLTx inserts jobs in a database/sql transaction of the caller's, whatever its driver.
func (i *Inserter) InsertSQLTx(ctx context.Context, tx *sql.Tx, specs []wire.Spec) ([]*wire.Job, error) {
	return i.insert(ctx, sqlSession{tx}, specs, false)
}

// rejected marks errors with which the server refused the insert, so that the caller knows that nothing was inserted.
func rejected(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("insert jobs: %w", err)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR" { // a fatal one ends the connection, perhaps after the commit
		return &wire.RejectedError{Err: err}
	}
	return err
}

func (i *Inserter) insertOne(ctx context.Context, spec wire.Spec) (*wire.Job, error) {
	job := jobOf(spec)
	err := i.pool.QueryRow(ctx, i.texts.render(query.InsertJob), insertArgs(spec)...).Scan(&job.ID, &job.RunAt, &job.CreatedAt)
	return &job, err
}

// insertArgs are InsertJob's. The payload is a json.RawMessage: as bytes it would be a bytea in the query modes that poolers need.
func insertArgs(spec wire.Spec) []any {
	return []any{
		spec.Task, json.RawMessage(spec.Payload), nullTime(spec.RunAt), spec.Delay.Microseconds(), spec.MaxAttempts, spec.Priority,
		flagsObject(spec.Flags),
	}
}

// insert sends statements until every spec has its job. own says that the transaction is ours to repeat.
func (i *Inserter) insert(ctx context.Context, session session, specs []wire.Spec, own bool) ([]*wire.Job, error) {
	batch := newInsertion(i.texts, specs)
	batch.byFunction = i.access == schema.CallsFunction
	var err error
	for try := range insertTries {
		if try > 0 && !wait(ctx, time.Duration(try)*time.Millisecond) {
			return nil, context.Cause(ctx)
		}
		err = session.run(ctx, batch.statements(try > 0))
		if err != nil && !(own && (sqlstate.Of(err) == sqlstate.SerializationFailure || sqlstate.Of(err) == sqlstate.DeadlockDetected)) {
			return nil, i.explain(err)
		}
		if err == nil && batch.done() {
			return batch.jobs, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%d of %d jobs could not be inserted after %d tries: their keys are claimed, or their task and queue names "+
		"inserted, by others again and again, or this transaction's snapshot is older than they are", batch.missing(), len(specs), insertTries)
}

// insertion is a list of specs on their way to becoming jobs.
type insertion struct {
	texts  *texts
	specs  []wire.Spec
	jobs   []*wire.Job // by index of specs; nil: not inserted yet
	rounds []round

	byFunction bool // all in one call, see insertByFunction
}

// round is a list of specs that one statement can insert: without keys, or each key once and one mode. Rounds keep the order of the
// specs, for it is the order of a queue.
type round struct {
	keyed bool
	mode  wire.KeyMode
	specs []int
}

func newInsertion(texts *texts, specs []wire.Spec) *insertion {
	n := &insertion{texts: texts, specs: specs, jobs: make([]*wire.Job, len(specs))}
	keys := map[string]bool{}
	for i, spec := range specs {
		keyed, mode, last := spec.Key != "", cmp.Or(spec.KeyMode, wire.KeyReplace), len(n.rounds)-1
		if last < 0 || n.rounds[last].keyed != keyed || keyed && (n.rounds[last].mode != mode || keys[spec.Key]) {
			n.rounds = append(n.rounds, round{keyed: keyed, mode: mode})
			last++
			clear(keys)
		}
		keys[spec.Key] = true
		n.rounds[last].specs = append(n.rounds[last].specs, i)
	}
	return n
}

func (n *insertion) missing() int {
	missing := 0
	for _, job := range n.jobs {
		if job == nil {
			missing++
		}
	}
	return missing
}

// done reports whether every spec has its job. Specs with equal keys share the job that the last of them left.
func (n *insertion) done() bool {
	if n.missing() > 0 {
		return false
	}
	if len(n.rounds) < 2 {
		return true
	}
	last := map[int64]*wire.Job{}
	for i, job := range n.jobs {
		if n.specs[i].Key != "" {
			last[job.ID] = job
		}
	}
	for i, job := range n.jobs {
		if n.specs[i].Key != "" {
			n.jobs[i] = last[job.ID]
		}
	}
	return true
}

// statements returns what to send for the specs that have no job yet. Names are inserted before keyed jobs, and before keyless
// ones if an earlier try found some missing.
func (n *insertion) statements(names bool) []statement {
	if n.byFunction {
		return []statement{n.insertByFunction()}
	}
	var list []statement
	for _, r := range n.rounds {
		left := slices.DeleteFunc(slices.Clone(r.specs), func(i int) bool { return n.jobs[i] != nil })
		switch {
		case len(left) == 0:
		case r.keyed:
			names = true
			list = append(list, n.insertKeyed(r.mode, left)...)
		default:
			list = append(list, n.insertKeyless(left))
		}
	}
	if names {
		list = append(n.names(), list...)
	}
	return list
}

func (n *insertion) names() []statement {
	var tasks, queues []string
	for _, spec := range n.specs {
		tasks = append(tasks, spec.Task)
		if spec.Queue != "" {
			queues = append(queues, spec.Queue)
		}
	}
	list := []statement{{text: n.texts.render(query.AddTasks), args: []any{distinct(tasks)}}}
	if len(queues) > 0 {
		list = append(list, statement{text: n.texts.render(query.AddQueues), args: []any{distinct(queues)}})
	}
	return list
}

func (n *insertion) insertKeyless(specs []int) statement {
	c := n.columns(specs)
	text, args := query.InsertJobs, c.args()
	if slices.ContainsFunc(c.queues, func(queue string) bool { return queue != "" }) {
		text, args = query.InsertQueuedJobs, c.argsWithQueues()
	}
	return statement{text: n.texts.render(text), args: args, read: func(rows rows) error {
		type inserted struct {
			id               int64
			runAt, createdAt time.Time
		}
		got := make([]inserted, 0, len(specs))
		for rows.Next() {
			var row inserted
			if err := rows.Scan(&row.id, &row.runAt, &row.createdAt); err != nil {
				return err
			}
			got = append(got, row)
		}
		if len(got) != len(specs) {
			return nil // none: a name is missing
		}
		// Ids were assigned in the order of the specs.
		slices.SortFunc(got, func(a, b inserted) int { return cmp.Compare(a.id, b.id) })
		jobs := make([]wire.Job, len(specs)) // one allocation for all
		for k, i := range specs {
			jobs[k] = jobOf(n.specs[i])
			jobs[k].ID, jobs[k].RunAt, jobs[k].CreatedAt = got[k].id, got[k].runAt, got[k].createdAt
			n.jobs[i] = &jobs[k]
		}
		return nil
	}}
}

func (n *insertion) insertKeyed(mode wire.KeyMode, specs []int) []statement {
	byKey := make(map[string]int, len(specs))
	keys := make([]string, 0, len(specs))
	for _, i := range specs {
		byKey[n.specs[i].Key] = i
		keys = append(keys, n.specs[i].Key)
	}
	args := append(n.columns(specs).argsWithQueues(), keys)
	read := func(rows rows) error {
		for rows.Next() {
			job, err := scanJob(rows)
			if err != nil {
				return err
			}
			n.jobs[byKey[job.Key]] = job
		}
		return nil
	}
	if mode == wire.KeyUnsafeDedupe {
		return []statement{{text: n.texts.render(query.DedupeJobs), args: args, read: read}}
	}
	return []statement{ // the first two sort the keys; here they are in the order of the other columns
		{text: n.texts.render(query.LockKeys), args: []any{keys}},
		{text: n.texts.render(query.SupersedeKeys), args: []any{keys}},
		{text: n.texts.render(query.UpsertJobs), args: append(args, mode == wire.KeyPreserveRunAt), read: read},
	}
}

// scanJob reads a job from the columns of UpsertJobs, and those that follow them.
func scanJob(row interface{ Scan(dest ...any) error }, more ...any) (*wire.Job, error) {
	var job wire.Job
	var key *string
	var runAt timestamp
	var flags []byte
	columns := []any{
		&key, &job.ID, &job.Task, &job.Queue, &job.Payload, &runAt, &job.CreatedAt, &job.Attempt, &job.MaxAttempts,
		&job.Priority, &job.Revision, &flags,
	}
	if err := row.Scan(append(columns, more...)...); err != nil {
		return nil, err
	}
	if key != nil {
		job.Key = *key
	}
	job.RunAt, job.Flags = runAt.Time, flagNames(flags)
	return &job, nil
}

// timestamp is scanned from any driver. Infinity, which other clients can write, leaves the zero Time.
type timestamp struct{ pgtype.Timestamptz }

// Scan is database/sql's: lib/pq has bytes for infinity.
func (t *timestamp) Scan(src any) error {
	if text, ok := src.([]byte); ok {
		src = string(text)
	}
	return t.Timestamptz.Scan(src)
}

// specColumns are the columns of several specs, as array parameters.
type specColumns struct {
	tasks, queues, payloads, flags []string
	runAts                         []pgtype.Timestamptz
	delays                         []int64
	maxAttempts, priorities        []int16
}

func (n *insertion) columns(specs []int) specColumns {
	size := len(specs)
	c := specColumns{
		tasks: make([]string, size), queues: make([]string, size), payloads: make([]string, size), flags: make([]string, size),
		runAts: make([]pgtype.Timestamptz, size), delays: make([]int64, size),
		maxAttempts: make([]int16, size), priorities: make([]int16, size),
	}
	for k, i := range specs {
		spec := &n.specs[i]
		c.tasks[k], c.queues[k], c.payloads[k], c.flags[k] = spec.Task, spec.Queue, string(spec.Payload), flagsObject(spec.Flags)
		c.runAts[k], c.delays[k] = nullTime(spec.RunAt), spec.Delay.Microseconds()
		c.maxAttempts[k], c.priorities[k] = spec.MaxAttempts, spec.Priority
	}
	return c
}

func (c specColumns) args() []any {
	return []any{c.tasks, c.payloads, c.runAts, c.delays, c.maxAttempts, c.priorities, c.flags}
}

func (c specColumns) argsWithQueues() []any {
	return []any{c.tasks, c.queues, c.payloads, c.runAts, c.delays, c.maxAttempts, c.priorities, c.flags}
}

// jobOf returns what is known of a keyless job before it is inserted.
func jobOf(spec wire.Spec) wire.Job {
	return wire.Job{
		Task: spec.Task, Payload: spec.Payload, Queue: spec.Queue, Priority: spec.Priority,
		MaxAttempts: int(spec.MaxAttempts), Flags: distinct(spec.Flags),
	}
}

// nullTime returns NULL for the zero time.
func nullTime(t time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t, Valid: !t.IsZero()}
}

// flagsObject returns flags as the wire has them, {"name": true}; "" if there are none.
func flagsObject(flags []string) string {
	if len(flags) == 0 {
		return ""
	}
	set := make(map[string]bool, len(flags))
	for _, flag := range flags {
		set[flag] = true
	}
	object, _ := json.Marshal(set) // strings and true: cannot fail
	return string(object)
}

func distinct(names []string) []string {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// wait sleeps for about d. It reports false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
