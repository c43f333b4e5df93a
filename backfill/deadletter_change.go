package backfill

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// DeadLetterOptions says how dead letters are requeued or deleted. The zero value does it at once.
type DeadLetterOptions struct {
	_ [0]func() // fields may be added

	// DryRun changes nothing. The result says what would be done, for 10,000 dead letters at most.
	DryRun bool
	// PerSecond is how many are changed in a second, at most. Default: 0, no limit.
	PerSecond float64
	// Notes replace those of each dead letter that is requeued; "": they stay. For requeues only.
	Notes string
	// Each is called for every outcome, in order, as soon as it is known: the result has the first
	// 1,000.
	Each func(DeadLetterOutcome)
}

// DeadLetterOutcome is what became of one dead letter.
type DeadLetterOutcome struct {
	_ [0]func() // fields may be added

	ID   int64
	Skip DeadLetterSkip // why it was left as it was; "": it was requeued or deleted
	// JobID is the job that it was requeued as. With [SkipRequeued] it is that of another requeue,
	// and with [SkipKeyHeld] the job that has the key. 0: none.
	JobID  int64
	Detail string // what the database said; "": nothing
}

// DeadLetterSkip says why a dead letter was left as it was.
type DeadLetterSkip string

// Why dead letters are left as they were.
const (
	SkipGone      DeadLetterSkip = "gone"      // there is none with this id: it was deleted, or its job has succeeded
	SkipUnmatched DeadLetterSkip = "unmatched" // its id is in the filter, and something else in the filter is not true of it
	SkipRequeued  DeadLetterSkip = "requeued"  // it is requeued already
	SkipChanged   DeadLetterSkip = "changed"   // it has failed again since it was found
	SkipKeyHeld   DeadLetterSkip = "key_held"  // a job that waits or runs has its key
	SkipLocked    DeadLetterSkip = "locked"    // another transaction has locked what it needs, for longer than a second
	SkipRefused   DeadLetterSkip = "refused"   // the database does not take the job; Detail says why
	SkipUnknown   DeadLetterSkip = "unknown"   // the connection broke at the commit, and what became of it could not be read afterwards
)

// DeadLetterResult is what became of the dead letters that a filter matched.
type DeadLetterResult struct {
	_ [0]func() // fields may be added

	Acted, Skipped int                    // of a dry run: how many would be
	SkippedBy      map[DeadLetterSkip]int // Skipped, by reason
	Outcomes       []DeadLetterOutcome    // the first 1,000
	// UpTo is what was there at the beginning: nothing that failed later was changed. Put that of a
	// dry run into the filter of what follows it, and what fails between the two is left alone.
	UpTo DeadLetterBound
	More bool // of a dry run: more match than were counted
}

// Bounds of what is done at once, and told.
const (
	changeBatch = 100
	foundAtOnce = 1000 // what is looked up at once: a filter without an index costs a scan each time
	maxOutcomes = 1000
	previewed   = 10_000
)

// RequeueDeadLetters enqueues the jobs of dead letters anew: the stored args, byte for byte, with
// the same task, queue, key, priority, flags and max_attempts, without attempts, and due at once.
// Those that failed first are enqueued first. Each is a new job with an id of its own. The dead
// letter stays, is out of the lists, and cannot be requeued twice, also by two operators at once:
// it goes when the job succeeds, and comes back, with Failures counted up, when it fails for good
// again. Middleware around enqueues is not called.
//
// A dead letter whose key a waiting or running job has is skipped. A job with the key that has
// failed for good, and is still a job, gives its key up, as in an enqueue.
//
// It works on what is there when it begins. It takes 100 at a time, each time in one transaction,
// and one by one what prevents that, so that each has an outcome of its own. When ctx ends, the
// result has what was done until then, beside the error. The result is nil if nothing was tried
// because the filter, the options or the client are wrong.
func (c *Client) RequeueDeadLetters(ctx context.Context, filter DeadLetterFilter, options DeadLetterOptions) (*DeadLetterResult, error) {
	result, err := c.changeDeadLetters(ctx, filter, options, true)
	if err != nil {
		return result, fmt.Errorf("requeue dead letters: %w", err)
	}
	return result, nil
}

// DeleteDeadLetters deletes dead letters, as [Client.RequeueDeadLetters] requeues them.
func (c *Client) DeleteDeadLetters(ctx context.Context, filter DeadLetterFilter, options DeadLetterOptions) (*DeadLetterResult, error) {
	result, err := c.changeDeadLetters(ctx, filter, options, false)
	if err != nil {
		return result, fmt.Errorf("delete dead letters: %w", err)
	}
	return result, nil
}

func (o *DeadLetterOptions) check(requeue bool) error {
	problem := checkText("notes", o.Notes, maxErrorText)
	if o.Notes != "" && !requeue {
		problem = errors.Join(problem, errors.New("the options have Notes: a dead letter that is deleted keeps none"))
	}
	return errors.Join(problem, checkRate(o.PerSecond))
}

func checkRate(perSecond float64) error {
	if !(perSecond >= 0) || math.IsInf(perSecond, 1) { // NaN, too
		return fmt.Errorf("PerSecond is %v: want a number above 0, or 0 for no limit", perSecond)
	}
	return nil
}

// batchSize is how many items are changed at once; perSecond 0: without a limit.
func batchSize(perSecond float64) int {
	if perSecond == 0 {
		return changeBatch
	}
	return min(changeBatch, max(1, int(perSecond)))
}

func (c *Client) changeDeadLetters(
	ctx context.Context, filter DeadLetterFilter, options DeadLetterOptions, requeue bool,
) (*DeadLetterResult, error) {
	if err := c.usable(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(filter.checkForChange(), options.check(requeue)); err != nil {
		return nil, invalid(err)
	}
	change := &letterChange{
		client: c, filter: filter, options: options, requeue: requeue, named: map[int64]bool{},
		result: DeadLetterResult{SkippedBy: map[DeadLetterSkip]int{}},
	}
	return &change.result, change.do(ctx)
}

// letterChange is a requeue or a deletion that is under way.
type letterChange struct {
	client  *Client
	filter  DeadLetterFilter
	options DeadLetterOptions
	requeue bool
	result  DeadLetterResult
	named   map[int64]bool // ids of the filter that have an outcome
}

func (l *letterChange) do(ctx context.Context) error {
	if l.filter.UpTo.isZero() {
		last, err := l.client.admin.LastDeadLetter(ctx)
		if err != nil {
			return err
		}
		if last.ID > 0 {
			l.filter.UpTo = DeadLetterBound{ID: last.ID, FailedAt: last.Time()}
		}
	}
	l.result.UpTo = l.filter.UpTo
	var err error
	switch {
	case l.filter.UpTo.isZero(): // there are none
	case l.options.DryRun:
		err = l.preview(ctx)
	default:
		err = l.run(ctx)
	}
	if err != nil || l.result.More { // with more, nobody knows what the others are
		return err
	}
	return l.tellMissing(ctx)
}

// run takes one batch after the other.
func (l *letterChange) run(ctx context.Context) error {
	size := batchSize(l.options.PerSecond)
	filter := l.filter.toPG()
	var behind pg.DeadLetterPlace
	for {
		found, err := l.client.admin.FindDeadLetters(ctx, filter, behind, foundAtOnce)
		if err != nil || len(found) == 0 {
			return err
		}
		for places := range slices.Chunk(found, size) {
			began := time.Now()
			if err := l.act(ctx, places); err != nil {
				return err
			}
			behind = places[len(places)-1]
			if len(found) < foundAtOnce && behind == found[len(found)-1] {
				return nil
			}
			if err := restAfter(ctx, began, len(places), l.options.PerSecond); err != nil {
				return err
			}
		}
	}
}

func (l *letterChange) act(ctx context.Context, places []pg.DeadLetterPlace) (err error) {
	var outcomes []pg.DeadLetterOutcome
	if l.requeue {
		before := l.result.Acted
		outcomes, err = l.client.admin.RequeueDeadLetters(ctx, places, l.options.Notes)
		defer func() {
			if acted := l.result.Acted - before; acted > 0 {
				l.client.nudger.Nudge(acted)
			}
		}()
	} else {
		outcomes, err = l.client.admin.DeleteDeadLetters(ctx, places)
	}
	l.tell(outcomes)
	return err
}

// restAfter waits until the next batch may begin, after one of so many items; perSecond 0: at once.
func restAfter(ctx context.Context, began time.Time, items int, perSecond float64) error {
	if perSecond == 0 {
		return ctx.Err()
	}
	wait := time.Duration(float64(items)/perSecond*float64(time.Second)) - time.Since(began)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

func (l *letterChange) tell(outcomes []pg.DeadLetterOutcome) {
	for _, o := range outcomes {
		outcome := DeadLetterOutcome{ID: o.ID, Skip: DeadLetterSkip(o.Skip), JobID: o.JobID, Detail: o.Detail}
		if outcome.Skip == "" {
			l.result.Acted++
		} else {
			l.result.Skipped++
			l.result.SkippedBy[outcome.Skip]++
		}
		if l.filter.IDs != nil {
			l.named[o.ID] = true
		}
		if len(l.result.Outcomes) < maxOutcomes {
			l.result.Outcomes = append(l.result.Outcomes, outcome)
		}
		if l.options.Each != nil {
			l.options.Each(outcome)
		}
	}
}

// preview tells what would become of the first that match, and counts the others.
func (l *letterChange) preview(ctx context.Context) error {
	places, err := l.client.admin.FindDeadLetters(ctx, l.filter.toPG(), pg.DeadLetterPlace{}, previewed+1)
	if err != nil {
		return err
	}
	if len(places) > previewed {
		places, l.result.More = places[:previewed], true
	}
	checked := places[:min(len(places), maxOutcomes)]
	outcomes, err := l.client.admin.CheckDeadLetters(ctx, checked, l.requeue)
	if err != nil {
		return err
	}
	for _, place := range places[len(checked):] {
		outcomes = append(outcomes, pg.DeadLetterOutcome{ID: place.ID})
	}
	l.tell(outcomes)
	return nil
}

// tellMissing tells why ids of the filter have no outcome.
func (l *letterChange) tellMissing(ctx context.Context) error {
	var missing []pg.DeadLetterPlace
	for _, id := range l.filter.IDs {
		if !l.named[id] {
			missing = append(missing, pg.DeadLetterPlace{ID: id})
			l.named[id] = true // it may be there twice
		}
	}
	if len(missing) == 0 {
		return nil
	}
	outcomes, err := l.client.admin.CheckDeadLetters(ctx, missing, false)
	if err != nil {
		return err
	}
	for i := range outcomes {
		if outcomes[i].Skip == "" {
			outcomes[i].Skip = pg.DeadLetterSkip(SkipUnmatched)
		}
	}
	l.tell(outcomes)
	return nil
}
