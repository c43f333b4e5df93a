package pg

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// Operation is a change of many jobs or dead letters, as it is stored.
type Operation struct {
	ID               int64
	Token            string // of a new one
	Place, Action    string
	Filter, Change   []byte // JSON
	UpTo             int64
	SeenAt           pgtype.Timestamptz
	Principal        string
	Roles            []string
	Restricted       bool
	Reason, State    string
	PerSecond        float64
	Matched          int
	More             bool // than Matched match
	Created, Started time.Time
	Ended, Carried   time.Time
	After            DeadLetterPlace // how far it has come
	Acted, Skipped   int64
	Error            string
	Expired          bool // it was previewed too long ago to be started
}

// The states of an operation.
const (
	OperationPreviewed = "previewed"
	OperationRunning   = "running"
	OperationStopped   = "stopped"
	OperationDone      = "done"
)

// scanned is how many jobs are looked at in one step of an operation, or of a preview, at most.
const scanned = 20_000

// SeenNow returns the moment that a preview is of, and the greatest id that a job has.
func (c *Changing) SeenNow(ctx context.Context) (at pgtype.Timestamptz, last int64, err error) {
	row, err := c.queries().SeenNow(ctx)
	return row.SeenAt, row.LastJob, err
}

// LastLetter is SeenNow for dead letters.
func (c *Changing) LastLetter(ctx context.Context) (place DeadLetterPlace, err error) {
	row, err := c.queries().LastDeadLetter(ctx)
	if err != nil {
		return place, err
	}
	place.ID = row.ID
	place.FailedAt, err = readStamp(row.FailedAt)
	return place, err
}

// FoundItem is a job or dead letter that an operation is to change.
type FoundItem struct {
	ID          int64
	Task, Queue string
	Place       DeadLetterPlace // of a dead letter
	Skip        Skip            // what a preview says of it
	Worker      string
}

// FindJobs returns the next jobs behind an id that match, size at most, and up to which id it has
// looked: no further than the last of them, or than 20,000 jobs.
func (c *Changing) FindJobs(ctx context.Context, f JobFilter, after, upTo int64, size int) (found []FoundItem, reached int64, err error) {
	least, most := max(after, 0)+1, upTo
	if least > most {
		return nil, upTo, nil
	}
	if !f.Points() {
		bound, err := c.queries().JobsAbove(ctx, query.JobsAboveParams{Least: least, Most: most, Size: scanned})
		if err != nil {
			return nil, 0, err
		}
		if bound.Jobs == scanned {
			most = bound.Bound
		}
	}
	rows, err := c.queries().OperationJobs(ctx, operationJobs(f, least, most, nil, size))
	if err != nil {
		return nil, 0, err
	}
	for _, row := range rows {
		found = append(found, FoundItem{ID: row.ID, Task: row.Task, Queue: row.Queue})
	}
	if len(found) == size {
		most = found[size-1].ID
	}
	return found, most, nil
}

// Preview says of found jobs what a change would come to.
func (c *Changing) Preview(ctx context.Context, found []FoundItem, change *JobChange) error {
	ids := make([]int64, len(found))
	for i, item := range found {
		ids[i] = item.ID
	}
	rows, err := c.queries().JudgeJobs(ctx, ids)
	if err != nil {
		return err
	}
	byID := make(map[int64]*query.LockJobsToChangeRow, len(rows))
	for _, row := range rows {
		byID[row.ID] = new(query.LockJobsToChangeRow(row))
	}
	for i := range found {
		if row, there := byID[found[i].ID]; there {
			item := change.judge(row)
			found[i].Skip, found[i].Worker = item.Skip, item.Worker
		} else {
			found[i].Skip = SkipGone
		}
	}
	return nil
}

// PreviewLetters says of found dead letters what a requeue would come to.
func (c *Changing) PreviewLetters(ctx context.Context, found []FoundItem) error {
	ids := make([]int64, len(found))
	for i, item := range found {
		ids[i] = item.ID
	}
	states, err := c.queries().DeadLetterStates(ctx, ids)
	if err != nil {
		return err
	}
	held := map[int64]bool{}
	for _, state := range states {
		held[state.ID] = state.HolderID != 0
	}
	for i := range found {
		if held[found[i].ID] {
			found[i].Skip = SkipKeyHeld
		}
	}
	return nil
}

// StillMatching returns which of these jobs match.
func (c *Changing) StillMatching(ctx context.Context, f JobFilter, ids []int64) (matching []int64, err error) {
	rows, err := c.queries().OperationJobs(ctx, operationJobs(f, 0, math.MaxInt64, ids, len(ids)))
	for _, row := range rows {
		matching = append(matching, row.ID)
	}
	return matching, err
}

func operationJobs(f JobFilter, least, most int64, among []int64, size int) query.OperationJobsParams {
	p := f.params()
	return query.OperationJobsParams{
		Least: least, Most: most, Among: among, Size: int32(size), //nolint:gosec // a page
		Ids: p.Ids, Keys: p.Keys, UpToID: p.UpToID, Tasks: p.Tasks, Queues: p.Queues, NoQueue: p.NoQueue, States: p.States,
		Locked: p.Locked, LockedBy: p.LockedBy,
		MinPriority: p.MinPriority, MaxPriority: p.MaxPriority, MinAttempts: p.MinAttempts, MaxAttempts: p.MaxAttempts,
		RunAtFrom: p.RunAtFrom, RunAtBefore: p.RunAtBefore, CreatedFrom: p.CreatedFrom, CreatedBefore: p.CreatedBefore,
		ErrorContains: p.ErrorContains, PayloadContains: p.PayloadContains,
	}
}

// FindLetters returns the next dead letters behind a place that match and are not requeued, the
// oldest failures first.
func (c *Changing) FindLetters(ctx context.Context, f DeadLetterFilter, behind DeadLetterPlace, size int) (found []FoundItem, err error) {
	rows, err := c.queries().FindDeadLetters(ctx, f.params(behind, size))
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(rows))
	for i, row := range rows {
		item := FoundItem{ID: row.ID, Place: DeadLetterPlace{ID: row.ID}}
		if item.Place.FailedAt, err = readStamp(row.FailedAt); err != nil {
			return nil, err
		}
		found, ids[i] = append(found, item), row.ID
	}
	names, err := c.queries().LettersThere(ctx, ids)
	for _, row := range names {
		for i := range found {
			if found[i].ID == row.ID {
				found[i].Task, found[i].Queue = row.Task, row.Queue
			}
		}
	}
	return found, err
}

// AddOperation stores what a preview has fixed, and notes its id.
func (c *Changing) AddOperation(ctx context.Context, o *Operation) error {
	row, err := c.queries().AddOperation(ctx, query.AddOperationParams{
		Token: o.Token, Place: o.Place, Action: o.Action, Filter: string(o.Filter), Change: string(o.Change), UpTo: o.UpTo, SeenAt: o.SeenAt,
		Principal: o.Principal, Roles: notNull(o.Roles), Restricted: o.Restricted, PerSecond: o.PerSecond,
		Matched: int32(o.Matched), More: o.More, //nolint:gosec // bounded
	})
	o.ID, o.Created = row.ID, row.CreatedAt.Time
	return err
}

// ErrNoOperation is returned when there is no operation with an id or token.
var ErrNoOperation = errors.New("there is no such operation, or its preview is too old")

// Operation returns an operation, by its token if that is not empty.
func (c *Changing) Operation(ctx context.Context, id int64, token string) (*Operation, error) {
	p := query.OperationsParams{ID: pgtype.Int8{Int64: id, Valid: token == ""}, Token: nullText(token), Size: 1}
	rows, err := c.queries().Operations(ctx, p)
	if err == nil && len(rows) == 0 {
		err = ErrNoOperation
	}
	if err != nil {
		return nil, err
	}
	return newOperation(&rows[0]), nil
}

func newOperation(row *query.OperationsRow) *Operation {
	return &Operation{
		ID: row.ID, Place: row.Place, Action: row.Action, Filter: []byte(row.Filter), Change: []byte(row.Change), UpTo: row.UpTo, SeenAt: row.SeenAt,
		Principal: row.Principal, Roles: row.Roles, Restricted: row.Restricted, Reason: row.Reason, State: row.State, PerSecond: row.PerSecond,
		Matched: int(row.Matched), More: row.More, Created: row.CreatedAt.Time, Started: row.StartedAt.Time, Ended: row.EndedAt.Time,
		Carried: row.CarriedAt.Time, After: DeadLetterPlace{row.AfterAt, row.After}, Acted: row.Acted, Skipped: row.Skipped, Error: row.Error,
		Expired: row.Expired,
	}
}

// LockOperation locks an operation, and returns its state.
func (c *Changing) LockOperation(ctx context.Context, id int64) (state string, expired bool, err error) {
	rows, err := c.queries().LockOperation(ctx, id)
	if err == nil && len(rows) == 0 {
		err = ErrNoOperation
	}
	if err != nil {
		return "", false, err
	}
	return rows[0].State, rows[0].Expired, nil
}

// StartOperation starts an operation, or lets one that was stopped go on.
func (c *Changing) StartOperation(ctx context.Context, o *Operation) error {
	return c.queries().StartOperation(ctx, query.StartOperationParams{
		ID: o.ID, Reason: o.Reason, Principal: o.Principal, Roles: notNull(o.Roles), Restricted: o.Restricted,
	})
}

// EndOperation stops an operation; why is what went wrong.
func (c *Changing) EndOperation(ctx context.Context, id int64, state, why string) error {
	return c.queries().EndOperation(ctx, query.EndOperationParams{ID: id, State: state, Error: why})
}

// Batch is what a step of an operation has come to.
type Batch struct {
	Items []Item
	After DeadLetterPlace // how far it has come
	Done  bool            // there is nothing behind it
}

// RunningOperation is one that can be carried on.
type RunningOperation struct {
	ID    int64
	DueIn time.Duration // until its next batch may begin
}

// RunningOperations returns what can be carried on, those first that have waited for longest; id 0:
// any. Without restricted, those are left out that somebody has started who may not do everything.
func (a *Admin) RunningOperations(ctx context.Context, id int64, restricted bool) (running []RunningOperation, err error) {
	again := func(ctx context.Context, run func(context.Context, query.DBTX) error) error {
		return a.again(ctx, func(ctx context.Context, tx pgx.Tx) error { return run(ctx, renderer{tx, a.texts}) })
	}
	rows, err := ask(ctx, again, (*query.Queries).RunningOperations, query.RunningOperationsParams{
		Restricted: restricted, ID: pgtype.Int8{Int64: id, Valid: id != 0},
	})
	for _, row := range rows {
		running = append(running, RunningOperation{row.ID, seconds(row.DueIn)})
	}
	return running, a.explainChange(err)
}

// Carry does the next step of an operation, unless somebody else does it at this moment, or it is
// not due. One transaction changes the items, records each, and notes how far it has come.
func (a *Admin) Carry(ctx context.Context, id int64, restricted bool, step func(context.Context, *Changing, *Operation) (*Batch, error)) (taken bool, err error) {
	c := &Changing{admin: a}
	err = a.again(ctx, func(ctx context.Context, tx pgx.Tx) error {
		*c, taken = Changing{admin: a, tx: tx}, false
		if _, err := tx.Exec(ctx, a.lockTimeout()); err != nil {
			return err
		}
		free, err := c.queries().TakeOperation(ctx, query.TakeOperationParams{ID: id, Restricted: restricted})
		if err != nil || len(free) == 0 {
			return err
		}
		if err := c.checkLedger(ctx); err != nil {
			return err
		}
		o, err := c.Operation(ctx, id, "")
		if err != nil {
			return err
		}
		batch, err := step(ctx, c, o)
		if err != nil {
			return err
		}
		taken = true
		return c.note(ctx, id, batch)
	})
	if err != nil {
		return false, a.explainChange(err)
	}
	c.tell(ctx)
	return taken, nil
}

// Missing returns which of these ids no item of an operation has, nor one of this batch.
func (c *Changing) Missing(ctx context.Context, operation int64, ids []int64, batch []Item) ([]int64, error) {
	missing, err := c.queries().ItemsMissing(ctx, query.ItemsMissingParams{OperationID: operation, Ids: ids})
	return slices.DeleteFunc(missing, func(id int64) bool {
		return slices.ContainsFunc(batch, func(item Item) bool { return item.ID == id })
	}), err
}

// Standing says why jobs, or dead letters, that are there were not found.
func (c *Changing) Standing(ctx context.Context, ids []int64, jobs bool) (map[int64]Item, error) {
	items := map[int64]Item{}
	unmatched := func(task, queue string) Item {
		return Item{Task: task, Queue: queue, Skip: SkipUnmatched, Detail: "it does not match the rest of the filter, or did not when it was previewed"}
	}
	if jobs {
		rows, err := c.queries().JobsThere(ctx, ids)
		for _, row := range rows {
			items[row.ID] = unmatched(row.Task, row.Queue)
		}
		return items, err
	}
	rows, err := c.queries().LettersThere(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		items[row.ID] = unmatched(row.Task, row.Queue)
	}
	states, err := c.queries().DeadLetterStates(ctx, ids)
	for _, state := range states {
		if item, there := items[state.ID]; there && state.RequeuedJobID != 0 {
			item.Skip, item.JobID, item.Detail = SkipRequeued, state.RequeuedJobID, ""
			items[state.ID] = item
		}
	}
	return items, err
}

// note records what became of the items of a batch, and how far the operation has come.
func (c *Changing) note(ctx context.Context, id int64, b *Batch) error {
	items := query.AddItemsParams{OperationID: id}
	n := query.NoteBatchParams{ID: id, AfterAt: b.After.FailedAt, After: b.After.ID, Items: int64(len(b.Items))}
	for _, item := range b.Items {
		items.Ids, items.Tasks, items.Queues = append(items.Ids, item.ID), append(items.Tasks, item.Task), append(items.Queues, item.Queue)
		items.Skips, items.Workers = append(items.Skips, string(item.Skip)), append(items.Workers, item.Worker)
		items.JobIds, items.Details = append(items.JobIds, item.JobID), append(items.Details, item.Detail)
		if item.Skip == "" {
			n.Acted++
		} else {
			n.Skipped++
		}
	}
	if len(b.Items) > 0 {
		if err := c.queries().AddItems(ctx, items); err != nil {
			return fmt.Errorf("record what became of the items: %w", err)
		}
	}
	if err := c.queries().NoteBatch(ctx, n); err != nil {
		return fmt.Errorf("note how far the operation has come: %w", err)
	}
	if b.Done {
		return c.EndOperation(ctx, id, OperationDone, "")
	}
	return nil
}

// Operations returns a page of operations that were started, the newest first, behind an id; 0:
// from the newest on.
func Operations(ctx context.Context, r *Reader, behind int64, size int) (page []*Operation, err error) {
	return operations(ctx, r, query.OperationsParams{Behind: pgtype.Int8{Int64: behind, Valid: behind != 0}, Size: int32(size)}) //nolint:gosec // a page
}

// OneOperation returns an operation.
func OneOperation(ctx context.Context, r *Reader, id int64) (*Operation, error) {
	page, err := operations(ctx, r, query.OperationsParams{ID: pgtype.Int8{Int64: id, Valid: true}, Size: 1})
	if err == nil && len(page) == 0 {
		err = ErrNoOperation
	}
	if err != nil {
		return nil, err
	}
	return page[0], nil
}

func operations(ctx context.Context, r *Reader, params query.OperationsParams) (page []*Operation, err error) {
	rows, err := Fact(ctx, r, "the operations", func(q *query.Queries, ctx context.Context) ([]query.OperationsRow, error) {
		return q.Operations(ctx, params)
	})
	for i := range rows {
		page = append(page, newOperation(&rows[i]))
	}
	return page, err
}

// StoredItem is an item with when it was changed, or left as it was.
type StoredItem struct {
	Item

	At time.Time
}

// Items returns a page of what became of an operation's items, by id, behind an id; with these
// skips, if there are any.
func Items(ctx context.Context, r *Reader, operation, after int64, skips []string, size int) (page []StoredItem, err error) {
	rows, err := Fact(ctx, r, "the items of the operation", func(q *query.Queries, ctx context.Context) ([]query.OperationItemsRow, error) {
		return q.OperationItems(ctx, query.OperationItemsParams{OperationID: operation, After: after, Skips: skips, Size: int32(size)}) //nolint:gosec // a page
	})
	for _, row := range rows {
		page = append(page, StoredItem{
			Item{ID: row.ItemID, Task: row.Task, Queue: row.Queue, Skip: Skip(row.Skip), Worker: row.Worker, JobID: row.JobID, Detail: row.Detail},
			row.At.Time,
		})
	}
	return page, err
}

// SkippedBy returns how many items were left as they were, by reason.
func SkippedBy(ctx context.Context, r *Reader, operation int64) (map[Skip]int, error) {
	rows, err := Fact(ctx, r, "why items were skipped", func(q *query.Queries, ctx context.Context) ([]query.SkippedByRow, error) {
		return q.SkippedBy(ctx, operation)
	})
	by := make(map[Skip]int, len(rows))
	for _, row := range rows {
		by[Skip(row.Skip)] = int(row.Items)
	}
	return by, err
}

// notNull keeps the driver from sending NULL for an empty list.
func notNull(list []string) []string { return append([]string{}, list...) }
