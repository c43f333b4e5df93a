package pg

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

//go:generate go run ./internal/claimsql

// maxBatch is a literal in the claim's texts.
const maxBatch = 500

// A claim has four texts, which query/claim.sql describes.
type claimKind int

const (
	claimFree claimKind = iota
	claimFront
	claimDeep
	claimScan
)

// claimTexts are the texts without forbidden flags and jobs to pass over, and with.
var claimTexts = [...][2]string{
	claimFree:  {query.ClaimFree, query.ClaimFreeFlags},
	claimFront: {query.ClaimFront, query.ClaimFrontFlags},
	claimDeep:  {query.ClaimDeep, query.ClaimDeepFlags},
	claimScan:  {query.ClaimScan, query.ClaimScanFlags},
}

// claims makes claims, and remembers between them where to look. Only one is made at a time.
type claims struct {
	texts   *texts
	tasks   map[int32]string // whose jobs may be claimed
	taskIDs []int32
	// line are the ids of all tasks whose jobs keep their place in a queue, and transactional those
	// of which a claim takes only as many jobs as there are connections for.
	line, transactional []int32

	marks    marks
	search   search
	freeOnly bool // no jobs of queues waited at the last full claim
	large    bool // waiting jobs may be too large to be claimed together; claimFree does not weigh them
	indexed  bool // the index on queues can be used
	avoided  *avoided
}

// forget forgets what was remembered of earlier claims.
func (c *claims) forget() { c.marks, c.search, c.freeOnly, c.large = noMarks(), search{}, false, false }

// serve says which tasks to claim.
func (c *claims) serve(tasks map[int32]string, line, transactional []int32) {
	c.line, c.transactional = line, transactional
	if !maps.Equal(c.tasks, tasks) {
		c.tasks, c.taskIDs, c.marks = tasks, slices.Sorted(maps.Keys(tasks)), noMarks()
	}
}

// answer is one claim's answer.
type answer struct {
	jobs  []*wire.Job
	alive bool
	// picked is how many jobs were found for the batch. There are less in jobs if they are too large
	// to be claimed together.
	picked    int
	looked    time.Duration // that the server took to find them
	at        time.Time     // the server's clock
	queued    pgtype.Bool   // jobs of queues wait; null if the claim did not look
	nextQueue int32         // where a search by number goes on; 0: at the end
	clogged   bool          // there may be better queues behind the window
	contended bool
	heldBack  []int32 // open queues that Serial kept out, or some of them
	// lastPriority is where a full claim stopped because it had looked at enough priorities.
	lastPriority pgtype.Int2
	nextDue      time.Duration
	canceling    bool // somebody has requested the end of some job
}

// claim makes one claim. It also returns how long the server took to find the jobs.
// canceling says that the end of some job was requested, perhaps of one of these.
func (c *claims) claim(
	ctx context.Context, db query.DBTX, request worker.ClaimRequest,
) (claimed worker.Claimed, canceling bool, looked time.Duration, err error) {
	size := min(max(request.Batch, 1), maxBatch)
	started := time.Now()
	full := c.marks.fullClaimIsDue(started)
	kind := c.kind(request, full)
	answer, err := c.ask(ctx, db, kind, request, size, full)
	if err != nil {
		if said := sqlstate.Of(err) == sqlstate.QueryCanceled; full && (said || ctx.Err() != nil) {
			looked = time.Since(started)
			c.marks.timedOut(started, looked, said)
		}
		return worker.Claimed{}, false, looked, fmt.Errorf("claim jobs: %w", err)
	}
	// A batch that ended for the size of its payloads is not short. If nothing of a batch was locked,
	// it has jobs with one attempt only, for which there was no room, or a trigger of the
	// application's has kept it.
	kept := answer.alive && answer.picked > 0 && len(answer.jobs) == 0
	short := answer.picked < size && (kept || len(answer.jobs) == answer.picked)
	c.large = !short && (c.large || kind == claimFree && len(answer.jobs) < answer.picked)
	unseen := c.marks.note(started, full, short, answer)
	searching := c.search.note(kind, request.Serial, answer)
	blind := kind == claimFree && answer.queued.Bool
	if answer.queued.Valid {
		c.freeOnly = !answer.queued.Bool
	}
	slices.SortFunc(answer.jobs, wire.CompareJobs) // RETURNING gives no order (R14, R15)
	claimed = worker.Claimed{
		Jobs:       answer.jobs,
		Alive:      answer.alive,
		More:       answer.alive && !kept && (!short || unseen || searching || blind),
		MoreSerial: len(answer.heldBack) > 0 || kept && request.Serial == 0,
		Contended:  answer.contended || kept && request.Serial > 0,
		NextDue:    answer.nextDue,
	}
	if !full && short && !claimed.More {
		claimed.Again = max(time.Until(c.marks.nextFull()), time.Millisecond)
	}
	return claimed, answer.canceling, answer.looked, nil
}

// kind decides which text the next claim has.
func (c *claims) kind(request worker.ClaimRequest, full bool) claimKind {
	switch {
	case !c.indexed && full:
		return claimScan
	case !c.indexed: // only the whole line shows which jobs are first in their queues
		return claimFree
	case c.search.deep > 0 && request.Serial > 0:
		return claimDeep
	case c.freeOnly && !c.large && len(request.Queues) == 0 && (full || !c.marks.short):
		// But a claim with marks that follows a short one has to see jobs of queues that came since.
		return claimFree
	default:
		return claimFront
	}
}

// ask sends one claim.
func (c *claims) ask(
	ctx context.Context, db query.DBTX, kind claimKind, request worker.ClaimRequest, size int, full bool,
) (answer, error) {
	priorities, lows := []int16{}, []time.Time{} // not nil, which pgx would send as NULL
	if !full {
		priorities, lows = c.marks.columns()
	}
	token := wire.ClaimToken(request.WorkerID, request.Number)
	args := []any{
		request.WorkerID, token, c.taskIDs, priorities, lows, size,
		request.Bytes, request.MaxPayload, c.marks.from, request.Serial,
	}
	if kind == claimFront || kind == claimDeep {
		args = append(args, append(append([]int32{}, request.Queues...), c.search.known...))
	}
	if kind == claimDeep {
		args = append(args, c.search.cursor, c.search.depth(size, time.Now()))
	}
	text := claimTexts[kind][0]
	if avoid := c.avoided.now(time.Now()); len(request.Forbidden)+len(avoid) > 0 {
		text = claimTexts[kind][1]
		args = append(args, append([]string{}, request.Forbidden...), avoid)
	}
	args = append(args, c.transactional, request.Transactional)
	if kind != claimFree {
		args = append(args, c.line)
	}
	rows, err := db.Query(ctx, c.texts.render(text), args...)
	if err != nil {
		return answer{}, err
	}
	return c.read(rows, size)
}

func (c *claims) read(rows pgx.Rows, size int) (answer, error) {
	defer rows.Close()
	var got answer
	var jobs []wire.Job // one allocation for all
	var picked int32
	var looked, nextDue, id pgtype.Int8
	var at, runAt, createdAt pgtype.Timestamptz
	var queueID, taskID, revision pgtype.Int4
	var priority, attempts, maxAttempts pgtype.Int2
	var key, lockedBy, queue pgtype.Text
	var payload, flags []byte
	columns := []any{
		&got.alive, &picked, &at, &got.queued, &got.nextQueue, &got.clogged, &got.contended, &got.heldBack,
		&got.canceling, &got.lastPriority, &nextDue, &looked,
		&id, &queueID, &taskID, &payload, &priority, &runAt, &attempts, &maxAttempts, &createdAt, &key, &lockedBy,
		&revision, &flags, &queue,
	}
	for first := true; rows.Next(); first = false {
		if err := rows.Scan(columns...); err != nil {
			return answer{}, err
		}
		if first { // the columns of the claim are the same in all rows
			got.picked, got.at = int(picked), at.Time
			got.looked = time.Duration(looked.Int64) * time.Microsecond
			got.nextDue = time.Duration(nextDue.Int64) * time.Microsecond
			clear(columns[:12])
			jobs = make([]wire.Job, min(got.picked, size))
			got.jobs = make([]*wire.Job, 0, len(jobs))
		}
		if !id.Valid {
			continue // one row without a job: nothing was claimed
		}
		if len(got.jobs) == len(jobs) {
			return answer{}, fmt.Errorf("the database returned more than %d jobs", len(jobs))
		}
		job := &jobs[len(got.jobs)]
		*job = wire.Job{
			Lease: wire.Lease{ID: id.Int64, QueueID: queueID.Int32, Token: lockedBy.String},
			Task:  c.tasks[taskID.Int32], Payload: payload, Queue: queue.String, Key: key.String,
			Priority: priority.Int16, Attempt: int(attempts.Int16), MaxAttempts: int(maxAttempts.Int16),
			Revision: int(revision.Int32), RunAt: runAt.Time, CreatedAt: createdAt.Time, Flags: flagNames(flags),
		}
		payload = nil // Scan must not write into the last one
		got.jobs = append(got.jobs, job)
	}
	return got, rows.Err()
}
