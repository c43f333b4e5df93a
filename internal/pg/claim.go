package pg

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// batchSizes are the limits that a claim can have; each is a text of its own (R26).
var batchSizes = []int{1, 5, 20, 100, 500}

// A job that was committed below a mark waits for a claim that looks there: fullClaimEvery, or ten times as long as the last such
// claim took, but never longer than fullClaimAtLeast, which is as long as an idle worker waits for its poll (R21).
const (
	fullClaimEvery   = 50 * time.Millisecond
	fullClaimAtLeast = 2 * time.Second
)

// deepClaims is how many claims in a row look for queues by number before the front is tried again.
const deepClaims = 32

// claims makes claims, and remembers between them where to look.
type claims struct {
	texts   *texts
	sized   map[sized]string
	tasks   map[int32]string
	taskIDs []int32

	// marks: for each priority, the run_at of the last free job claimed. The next claim starts there, past the index entries
	// of deleted jobs and whatever it had to skip. They are a hint: every full claim looks everywhere (R21).
	marks    map[int16]time.Time
	fullAt   time.Time
	fullTook time.Duration

	freeOnly bool  // no jobs of queues waited at the last claim: use the free text
	deep     int   // claims left before the front is tried again; 0: use the front text
	cursor   int32 // queue id where the deep scan goes on
	deepIdle bool  // the present pass over the queues has claimed nothing so far
}

func (c *claims) reset(tasks map[int32]string) {
	*c = claims{texts: c.texts, sized: c.sized}
	c.serve(tasks)
}

// serve says which tasks to claim.
func (c *claims) serve(tasks map[int32]string) {
	if !maps.Equal(c.tasks, tasks) {
		c.tasks, c.taskIDs, c.marks = tasks, slices.Sorted(maps.Keys(tasks)), nil
	}
}

// answer is one claim's answer.
type answer struct {
	jobs                               []*wire.Job
	alive, queued, contended, heldBack bool
	found                              int32
	nextDue                            time.Duration
}

func (c *claims) claim(ctx context.Context, db query.DBTX, request worker.ClaimRequest) (worker.Claimed, error) {
	size := batchSize(request.Batch)
	started := time.Now()
	full := len(c.marks) == 0 || started.Sub(c.fullAt) >= min(max(fullClaimEvery, 10*c.fullTook), fullClaimAtLeast)
	answer, err := c.ask(ctx, db, request, size, full)
	if err != nil {
		return worker.Claimed{}, fmt.Errorf("claim jobs: %w", err)
	}
	if full {
		c.fullAt, c.fullTook = started, time.Since(started)
		c.marks = nil
	}
	short := len(answer.jobs) < size
	c.mark(answer.jobs, short)
	searching := c.search(size, answer, short)
	blind := c.freeOnly && answer.queued
	c.freeOnly = !answer.queued
	slices.SortFunc(answer.jobs, wire.CompareJobs) // Returning gives no order (R14, R15)
	return worker.Claimed{
		Jobs:       answer.jobs,
		Alive:      answer.alive,
		More:       answer.alive && (!short || !full || searching || blind),
		MoreSerial: answer.heldBack,
		Contended:  answer.contended,
		NextDue:    answer.nextDue,
	}, nil
}

// mark notes how far the free jobs have been claimed. After a claim that came back short the next one looks everywhere.
func (c *claims) mark(jobs []*wire.Job, short bool) {
	if short {
		c.marks = nil
		return
	}
	if c.marks == nil {
		c.marks = make(map[int16]time.Time)
	}
	for _, job := range jobs {
		if job.QueueID == 0 && job.RunAt.After(c.marks[job.Priority]) {
			c.marks[job.Priority] = job.RunAt
		}
	}
}

// search decides where the next claim looks for queues. It reports whether one should follow at once.
func (c *claims) search(size int, answer answer, short bool) bool {
	if c.deep == 0 {
		// A claim that held queues back has seen open ones, which the next one with room takes: that is no clog.
		if !short || answer.heldBack || int(answer.found) < window(size) {
			return false
		}
		// The front is clogged: only jobs of blocked queues, or of tasks that nobody here serves.
		c.deep, c.deepIdle = deepClaims, c.cursor == 0
		return true
	}
	c.deep--
	c.cursor = answer.found
	if len(answer.jobs) > 0 {
		c.deepIdle = false
	}
	if c.cursor != 0 {
		return true
	}
	idle := c.deepIdle
	c.deepIdle = true
	if idle { // a whole pass found nothing
		c.deep = 0
	}
	return !idle
}

// ask sends one claim.
func (c *claims) ask(ctx context.Context, db query.DBTX, request worker.ClaimRequest, size int, full bool) (answer, error) {
	priorities, lows := []int16{}, []time.Time{} // not nil, which pgx would send as NULL
	if !full {
		for _, priority := range slices.Sorted(maps.Keys(c.marks)) {
			priorities = append(priorities, priority)
			lows = append(lows, c.marks[priority])
		}
	}
	token := wire.ClaimToken(request.WorkerID, request.Number)
	which := c.which()
	args := []any{request.WorkerID, token, c.taskIDs, priorities, lows, int32(request.Serial), c.cursor} //nolint:gosec // at most maxBatch
	args = args[:which.parameters]
	if len(request.Forbidden) > 0 {
		which = passing[which]
		args = append(args, request.Forbidden)
	}
	rows, err := db.Query(ctx, c.text(which, size), args...)
	if err != nil {
		return answer{}, err
	}
	return c.read(rows, size)
}

// passOver makes the text that passes over jobs with one of the flags of a further parameter, as it does over those of tasks that
// this worker does not serve. Jobs without flags have null there, and always pass (contract section 5.2).
func (t *claimText) passOver() *claimText {
	flags := " ?| $" + strconv.Itoa(t.parameters+1) + "::text[]"
	return &claimText{parameters: t.parameters + 1, sql: strings.NewReplacer(
		"q is not null and task_id = any($3::int[])", "q is not null and task_id = any($3::int[])", // of the window, which has no flags
		"job_queue_id as q, task_id,", "job_queue_id as q, case when (flags"+flags+") is not true then task_id end as task_id,",
		"j.task_id = any($3::int[])", "j.task_id = any($3::int[]) and (j.flags"+flags+") is not true",
		"task_id = any($3::int[])", "task_id = any($3::int[]) and (flags"+flags+") is not true",
	).Replace(t.sql)}
}

// claimText is one of the claim's texts.
type claimText struct {
	sql        string
	parameters int
}

var (
	claimFree  = &claimText{query.ClaimFree, 5}
	claimFront = &claimText{query.ClaimFront, 6}
	claimDeep  = &claimText{query.ClaimDeep, 7}

	// passing are the texts for workers with forbidden flags.
	passing = map[*claimText]*claimText{claimFree: claimFree.passOver(), claimFront: claimFront.passOver(), claimDeep: claimDeep.passOver()}
)

func (c *claims) which() *claimText {
	switch {
	case c.deep > 0:
		return claimDeep
	case c.freeOnly:
		return claimFree
	default:
		return claimFront
	}
}

// text returns a claim's text for the schema, with the limits of a batch size.
func (c *claims) text(which *claimText, size int) string {
	key := sized{which, size}
	if c.sized == nil {
		c.sized = make(map[sized]string)
	}
	if _, ok := c.sized[key]; !ok {
		c.sized[key] = c.texts.render(withLimits(which.sql, size))
	}
	return c.sized[key]
}

// sized names one text of the claim.
type sized struct {
	which *claimText
	size  int
}

func (c *claims) read(rows pgx.Rows, size int) (answer, error) {
	defer rows.Close()
	got := answer{jobs: make([]*wire.Job, 0, size)}
	jobs := make([]wire.Job, size) // one allocation for all
	var contended, heldBack pgtype.Bool
	var id, nextDue pgtype.Int8
	var queueID, taskID, revision pgtype.Int4
	var priority, attempts, maxAttempts pgtype.Int2
	var runAt, createdAt pgtype.Timestamptz
	var key, lockedBy, queue pgtype.Text
	var payload, flags []byte
	columns := []any{
		&got.alive, &got.queued, &got.found, &contended, &heldBack, &nextDue, &id, &queueID, &taskID, &payload, &priority, &runAt, &attempts,
		&maxAttempts, &createdAt, &key, &lockedBy, &revision, &flags, &queue,
	}
	for rows.Next() {
		if err := rows.Scan(columns...); err != nil {
			return answer{}, err
		}
		if len(got.jobs) == 0 { // the first columns are the same in all rows
			got.contended, got.heldBack = contended.Bool, heldBack.Bool
			got.nextDue = time.Duration(nextDue.Int64) * time.Microsecond
			clear(columns[:6])
		}
		if !id.Valid {
			continue // one row without a job: nothing was claimed
		}
		if len(got.jobs) == len(jobs) {
			return answer{}, fmt.Errorf("the database returned more than %d jobs", size)
		}
		job := &jobs[len(got.jobs)]
		*job = wire.Job{
			Lease: wire.Lease{ID: id.Int64, QueueID: queueID.Int32, Token: lockedBy.String},
			Task:  c.tasks[taskID.Int32], Payload: payload, Queue: queue.String, Key: key.String, Priority: priority.Int16,
			Attempt: int(attempts.Int16), MaxAttempts: int(maxAttempts.Int16), Revision: int(revision.Int32),
			RunAt: runAt.Time, CreatedAt: createdAt.Time, Flags: flagNames(flags),
		}
		payload = nil // Scan must not write into the last one
		got.jobs = append(got.jobs, job)
	}
	return got, rows.Err()
}

// batchSize returns the largest size that does not exceed wanted.
func batchSize(wanted int) int {
	for _, size := range slices.Backward(batchSizes) {
		if size <= wanted {
			return size
		}
	}
	return batchSizes[0]
}

func window(size int) int { return max(4*size, 400) }
func depth(size int) int  { return max(2*size, 400) }

// withLimits replaces the stand-ins in a claim's text by literal limits.
func withLimits(text string, size int) string {
	return strings.NewReplacer(
		"9000", strconv.Itoa(size-1),
		"9001", strconv.Itoa(size),
		"9002", strconv.Itoa(2*size),
		"9003", strconv.Itoa(window(size)),
		"9004", strconv.Itoa(depth(size)),
	).Replace(text)
}
