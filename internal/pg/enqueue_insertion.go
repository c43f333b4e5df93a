package pg

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/wire"
)

// insertion inserts specs in one transaction, and ends with it: what it has read counts when that
// transaction has committed, and never in another one.
type insertion struct {
	texts  *texts
	specs  []wire.Spec
	access schema.Access
	// untraced leaves trace contexts out: the role may not write them.
	untraced bool
	whole    bool        // raise an error rather than insert a part of the specs; for a transaction of our own
	jobs     []*wire.Job // by index of specs; nil: not inserted
}

func newInsertion(texts *texts, specs []wire.Spec, access schema.Access) *insertion {
	return &insertion{texts: texts, specs: specs, access: access, jobs: make([]*wire.Job, len(specs))}
}

// smallStatements are all pieces of a plan, to be sent at once.
func (n *insertion) smallStatements(p *plan, names bool) (list []statement) {
	if names || n.access == schema.CallsFunction || n.hasQueue(p.pieces[0].specs) {
		list = append(list, n.limitLockWaits(lockWait))
	}
	if names {
		list = append(list, n.addNames()...)
	}
	for _, piece := range p.pieces {
		list = append(list, n.insertPiece(piece)...)
	}
	return list
}

// insertLarge sends one piece after the other. It first locks what may be locked by others: when it
// has to give up because of that, little work is lost.
func (n *insertion) insertLarge(ctx *enqueue.Context, conn *pgxpool.Conn, p *plan) error {
	statements := ctx.Statements()
	tx, err := conn.Begin(statements)
	if err != nil {
		return notCommitted(because(ctx, err))
	}
	s := pgxSession{tx, conn.Conn()}
	send := func(list []statement) error {
		ctx.Step()
		return because(ctx, s.run(statements, list))
	}
	if err = send(append([]statement{n.limitLockWaits(lockWait)}, n.addNames()...)); err == nil {
		err = n.lockAll(p, send)
	}
	if err == nil {
		err = send([]statement{n.limitLockWaits(bulkLockWait)})
	}
	for i := 0; i < len(p.pieces) && err == nil; i++ {
		err = send(n.insertPiece(p.pieces[i]))
	}
	if err = cmp.Or(err, ctx.Cause()); err != nil {
		Rollback(ctx, tx)
		return notCommitted(err)
	}
	ctx.Step()
	return because(ctx, tx.Commit(statements))
}

// lockAll locks the rows of all keys.
func (n *insertion) lockAll(p *plan, send func([]statement) error) error {
	if n.access == schema.CallsFunction {
		return nil
	}
	for _, piece := range p.pieces {
		if !piece.keyed {
			continue
		}
		if err := send([]statement{n.lockKeys(n.keys(piece.specs))}); err != nil {
			return err
		}
	}
	return nil
}

func (n *insertion) limitLockWaits(limit string) statement {
	return statement{text: n.texts.render(query.LimitLockWaits), args: []any{limit}}
}

func (n *insertion) lockKeys(keys []string) statement {
	return statement{text: n.texts.render(query.LockKeys), args: []any{keys}}
}

func (n *insertion) keys(specs []int) []string {
	keys := make([]string, len(specs))
	for k, i := range specs {
		keys[k] = n.specs[i].Key
	}
	return keys
}

func (n *insertion) hasQueue(specs []int) bool {
	return slices.ContainsFunc(specs, func(i int) bool { return n.specs[i].Queue != "" })
}

// isTraced reports whether trace contexts are to be stored. A role that may only enqueue stores none.
func (n *insertion) isTraced(specs []int) bool {
	return !n.untraced && slices.ContainsFunc(specs, func(i int) bool { return n.specs[i].Trace.Parent != "" })
}

// contexts are the trace contexts of specs; "" for those that have none.
func (n *insertion) contexts(specs []int) (parents, states []string) {
	parents, states = make([]string, len(specs)), make([]string, len(specs))
	for k, i := range specs {
		parents[k], states[k] = n.specs[i].Trace.Parent, n.specs[i].Trace.State
	}
	return parents, states
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

// result returns the jobs in the order of the specs. Specs with equal keys share the job that the
// last of them left.
func (n *insertion) result() []*wire.Job {
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
	return n.jobs
}

// addNames inserts the names of tasks and queues that are missing.
func (n *insertion) addNames() []statement {
	if n.access == schema.CallsFunction {
		return nil // the function does
	}
	tasks, queues := map[string]bool{}, map[string]bool{}
	for i := range n.specs {
		tasks[n.specs[i].Task] = true
		if n.specs[i].Queue != "" {
			queues[n.specs[i].Queue] = true
		}
	}
	list := []statement{{text: n.texts.render(query.AddTasks), args: []any{slices.Sorted(maps.Keys(tasks))}}}
	if len(queues) > 0 {
		list = append(list, statement{text: n.texts.render(query.AddQueues), args: []any{slices.Sorted(maps.Keys(queues))}})
	}
	return list
}

// insertPiece inserts one piece.
func (n *insertion) insertPiece(p piece) []statement {
	switch {
	case n.access == schema.CallsFunction:
		return []statement{n.insertByFunction(p)}
	case p.keyed:
		return n.insertKeyed(p)
	default:
		return []statement{n.insertKeyless(p)}
	}
}

func (n *insertion) insertKeyless(p piece) statement {
	c := n.columns(p.specs)
	text, args := query.InsertJobs, append(c.args(), n.whole)
	switch {
	case n.isTraced(p.specs):
		parents, states := n.contexts(p.specs)
		text, args = query.InsertTracedJobs, append(c.argsWithQueues(), n.whole, parents, states)
	case n.hasQueue(p.specs):
		text, args = query.InsertQueuedJobs, append(c.argsWithQueues(), n.whole)
	}
	return statement{text: n.texts.render(text), args: args, read: func(rows rows) error {
		got := make([]wire.Job, 0, len(p.specs))
		for rows.Next() {
			var row wire.Job
			if err := scanInserted(rows, &row); err != nil {
				return err
			}
			got = append(got, row)
		}
		if len(got) != len(p.specs) {
			return nil // none: a name is missing
		}
		// Ids were assigned in the order of the specs.
		slices.SortFunc(got, func(a, b wire.Job) int { return cmp.Compare(a.ID, b.ID) })
		jobs := make([]wire.Job, len(p.specs)) // one allocation for all
		for k, i := range p.specs {
			jobs[k] = jobOf(n.specs[i])
			jobs[k].ID, jobs[k].RunAt, jobs[k].CreatedAt = got[k].ID, got[k].RunAt, got[k].CreatedAt
			n.jobs[i] = &jobs[k]
		}
		return nil
	}}
}

func (n *insertion) insertKeyed(p piece) []statement {
	keys := n.keys(p.specs)
	byKey := make(map[string]int, len(keys))
	for k, key := range keys {
		byKey[key] = p.specs[k]
	}
	args := append(n.columns(p.specs).argsWithQueues(), keys, n.whole)
	read := func(rows rows) error {
		for rows.Next() {
			var taken bool
			job, err := scanJob(rows, &taken)
			if err != nil {
				return err
			}
			if !taken {
				n.jobs[byKey[job.Key]] = job
			}
		}
		return nil
	}
	var traced []statement
	if n.isTraced(p.specs) {
		parents, states := n.contexts(p.specs)
		traced = []statement{{
			text: n.texts.render(query.TraceKeys), args: []any{keys, parents, states, p.mode == wire.KeyUnsafeDedupe},
		}}
	}
	if p.mode == wire.KeyUnsafeDedupe {
		return append([]statement{{text: n.texts.render(query.DedupeJobs), args: args, read: read}}, traced...)
	}
	return append([]statement{ // the first two sort the keys; here they are in the order of the other columns
		n.lockKeys(keys),
		{text: n.texts.render(query.SupersedeKeys), args: []any{keys}},
		{text: n.texts.render(query.UpsertJobs), args: append(args, p.mode == wire.KeyPreserveRunAt), read: read},
	}, traced...)
}

// insertByFunction inserts by one call of backfill_enqueue, jobs without keys first. The function
// gives out no payloads: a job that is not as it was sent, because its key found another one, has
// none.
func (n *insertion) insertByFunction(p piece) statement {
	keys, modes := n.keys(p.specs), make([]string, len(p.specs))
	for k, i := range p.specs {
		modes[k] = string(cmp.Or(n.specs[i].KeyMode, wire.KeyReplace))
	}
	args := append(n.columns(p.specs).argsWithQueues(), keys, modes)
	return statement{text: n.texts.render(query.EnqueueJobs), args: args, read: func(rows rows) error {
		for rows.Next() {
			var ordinal int
			var asSent bool
			job, err := scanJob(rows, &ordinal, &asSent)
			if err != nil {
				return err
			}
			if ordinal < 1 || ordinal > len(p.specs) {
				return fmt.Errorf("backfill_enqueue returned job %d of %d", ordinal, len(p.specs))
			}
			i := p.specs[ordinal-1]
			if asSent {
				job.Payload = n.specs[i].Payload
			}
			n.jobs[i] = job
		}
		return nil
	}}
}

// scanInserted reads what InsertJob and InsertJobs return.
func scanInserted(row interface{ Scan(dest ...any) error }, job *wire.Job) error {
	return row.Scan(&job.ID, (*hexTime)(&job.RunAt), (*hexTime)(&job.CreatedAt))
}

// scanJob reads a job from the columns of UpsertJobs, and those that follow them.
func scanJob(row interface{ Scan(dest ...any) error }, more ...any) (*wire.Job, error) {
	var job wire.Job
	var key *string
	var flags []byte
	columns := []any{
		&key, &job.ID, &job.Task, &job.Queue, &job.Payload, (*hexTime)(&job.RunAt),
		(*hexTime)(&job.CreatedAt), &job.Attempt, &job.MaxAttempts, &job.Priority, &job.Revision, &flags,
	}
	if err := row.Scan(append(columns, more...)...); err != nil {
		return nil, err
	}
	if key != nil {
		job.Key = *key
	}
	job.Flags = flagNames(flags)
	return &job, nil
}

// hexTime scans a time from its binary format, in hex, which no setting of the session changes:
// microseconds since 2000. Infinity, which other clients can write, becomes the zero Time, as does
// the empty text.
type hexTime time.Time

// ScanBytes implements pgtype.BytesScanner.
func (t *hexTime) ScanBytes(hex []byte) error {
	*t = hexTime{}
	if len(hex) == 0 {
		return nil
	}
	bits, err := strconv.ParseUint(string(hex), 16, 64)
	if err != nil {
		return fmt.Errorf("read a time: %w", err)
	}
	since := int64(bits) //nolint:gosec // two's complement
	if since != math.MinInt64 && since != math.MaxInt64 {
		*t = hexTime(time.Unix(since2000+since/1e6, since%1e6*1e3))
	}
	return nil
}

// Scan implements sql.Scanner.
func (t *hexTime) Scan(value any) error {
	switch hex := value.(type) {
	case string:
		return t.ScanBytes([]byte(hex))
	case []byte:
		return t.ScanBytes(hex)
	default:
		return fmt.Errorf("read a time: got a %T", value)
	}
}

// since2000 is the Unix time of 2000, in seconds.
const since2000 = 946_684_800

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
		c.runAts[k], c.delays[k] = elementTime(spec.RunAt), spec.Delay.Microseconds()
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

// elementTime returns -infinity for the zero time.
func elementTime(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
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
