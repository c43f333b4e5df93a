package backfill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// DeadLetter is a job that failed for good. It is a row of backfill_dlq, and no job any more.
// Fields may be added: write it with field names, and do not compare two with ==.
type DeadLetter struct {
	_ [0]func() // as the comment says

	ID    int64 // of the dead letter; the ids of jobs are others
	JobID int64 // that the job had when it failed last

	Task       string
	Args       json.RawMessage // as they are stored
	Queue, Key string          // "": none
	Priority   Priority
	Flags      []string

	Attempts, MaxAttempts int // Attempts: when it failed last

	Reason        DeadLetterReason
	LastError     string    // of the last attempt
	FailedAt      time.Time // when it failed for good, the last time
	Failures      int       // how often it has failed for good: more than once if it was requeued
	FirstError    string    // what LastError was when it failed for good for the first time
	FirstFailedAt time.Time // when that was

	CreatedAt time.Time // when the job was enqueued
	RunAt     time.Time // when it was due for the last time

	Requeues      int       // how often it was requeued
	RequeuedAt    time.Time // the last time; zero: it was not
	RequeuedJobID int64     // the job that it was requeued as, which has not failed for good; 0: none
	Notes         string    // of whoever edited or requeued it
}

// DeadLetterReason says why a job failed for good.
type DeadLetterReason string

// The reasons. LastError says more.
const (
	// ReasonExhausted: its last attempt failed.
	ReasonExhausted DeadLetterReason = "exhausted"
	// ReasonPermanent: the handler returned [Permanent].
	ReasonPermanent DeadLetterReason = "permanent"
	// ReasonCrashed: it killed its workers, or its worker died while it ran its only attempt.
	ReasonCrashed DeadLetterReason = "crashed"
	// ReasonInterrupted: a stop, or a lost lease, cut its only attempt.
	ReasonInterrupted DeadLetterReason = "interrupted"
	// ReasonSwept: it was found among the jobs without attempts left. Another client, an operator,
	// or a worker without dead letters has left it there.
	ReasonSwept DeadLetterReason = "swept"
)

// deadLetterReasons are all reasons.
var deadLetterReasons = []DeadLetterReason{ReasonExhausted, ReasonPermanent, ReasonCrashed, ReasonInterrupted, ReasonSwept}

// DeadLetter returns the dead letter with this id, also if it is requeued. If there is none, the
// error is [ErrDeadLetterNotFound]. Like the other methods for dead letters, it takes 30 seconds at
// most for each statement unless ctx has a deadline.
func (c *Client) DeadLetter(ctx context.Context, id int64) (*DeadLetter, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("get dead letter: %w", err)
	}
	letter, err := c.admin.DeadLetter(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("get dead letter %d: %w", id, err)
	}
	return newDeadLetter(letter), nil
}

// newDeadLetter converts a dead letter of the database. It is the one place where one crosses that
// boundary.
func newDeadLetter(d *pg.DeadLetter) *DeadLetter {
	return &DeadLetter{
		ID: d.ID, JobID: d.JobID, Task: d.Task, Args: d.Payload, Queue: d.Queue, Key: d.Key, Priority: Priority(d.Priority), Flags: d.Flags,
		Attempts: int(d.Attempts), MaxAttempts: int(d.MaxAttempts), Reason: DeadLetterReason(d.Reason), LastError: d.LastError,
		FailedAt: d.FailedAt, Failures: d.Failures, FirstError: d.FirstError, FirstFailedAt: d.FirstFailedAt, CreatedAt: d.CreatedAt,
		RunAt: d.RunAt, Requeues: d.Requeues, RequeuedAt: d.RequeuedAt, RequeuedJobID: d.RequeuedJobID, Notes: d.Notes,
	}
}

// The number of dead letters of a page.
const (
	defaultPageSize = 50
	maxPageSize     = 1000
)

// DeadLetterPage says which part of a list is wanted. The zero value is the first page.
type DeadLetterPage struct {
	_ [0]func() // fields may be added

	After string // [DeadLetterList].Next of the page before; "": the first page
	Size  int    // 1 to 1,000. Default: 50
}

// DeadLetterList is a page of dead letters.
type DeadLetterList struct {
	_ [0]func() // fields may be added

	Letters []*DeadLetter
	Next    string // for [DeadLetterPage].After; "": this is the last page
}

// DeadLetters returns a page of the dead letters that a filter matches, those that failed last
// first. Dead letters that fail meanwhile move no page that follows. Those that are requeued are
// left out, unless the filter has Requeued.
func (c *Client) DeadLetters(ctx context.Context, filter DeadLetterFilter, page DeadLetterPage) (*DeadLetterList, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	behind, err := parsePlace(page.After)
	if page.Size < 0 || page.Size > maxPageSize {
		err = errors.Join(err, fmt.Errorf("the size of a page is %d: want 1 to %d", page.Size, maxPageSize))
	}
	if err = errors.Join(filter.check(), err); err != nil {
		return nil, fmt.Errorf("list dead letters: %w", invalid(err))
	}
	size := page.Size
	if size == 0 {
		size = defaultPageSize
	}
	letters, err := c.admin.DeadLetters(ctx, filter.toPG(), filter.Requeued, behind, size+1)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	list := &DeadLetterList{}
	if len(letters) > size {
		letters = letters[:size]
		list.Next = formatPlace(letters[size-1].Place)
	}
	for _, letter := range letters {
		list.Letters = append(list.Letters, newDeadLetter(letter))
	}
	return list, nil
}

// A place is written as microseconds and id.
func formatPlace(p pg.DeadLetterPlace) string { return fmt.Sprintf("%d.%d", p.Micros(), p.ID) }

func parsePlace(text string) (place pg.DeadLetterPlace, err error) {
	if text == "" {
		return place, nil
	}
	var micros, id int64
	if _, err := fmt.Sscanf(text, "%d.%d", &micros, &id); err != nil || fmt.Sprintf("%d.%d", micros, id) != text {
		return place, fmt.Errorf("the page %s is none: pass what Next of the page before says", shortQuote(text))
	}
	return pg.DeadLetterPlaceAt(micros, id), nil
}

// DeadLetterEdit says what [Client.EditDeadLetter] changes. A nil field changes nothing, and an
// empty Queue, Key or Notes removes it.
type DeadLetterEdit struct {
	_ [0]func() // fields may be added

	// FailedAt is that of the dead letter as you have read it: the edit is refused if it has failed
	// again since. It must be set.
	FailedAt time.Time

	Args        json.RawMessage // valid JSON; nil changes nothing
	Priority    *Priority
	MaxAttempts *int // 1 to 32767
	Queue, Key  *string
	Notes       *string
}

// EditDeadLetter changes a dead letter before it is requeued, and returns it. Start from what
// [Client.DeadLetter] returned: Args replaces the whole args. If the dead letter was requeued since
// then, or has failed again, the error is a [*DeadLetterConflictError], and nothing is changed.
func (c *Client) EditDeadLetter(ctx context.Context, id int64, edit DeadLetterEdit) (*DeadLetter, error) {
	err := c.usable(ctx)
	if err == nil {
		if err = edit.check(); err != nil {
			err = invalid(err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("edit dead letter %d: %w", id, err)
	}
	change := pg.DeadLetterEdit{Payload: edit.Args, Priority: (*int16)(edit.Priority), Queue: edit.Queue, Key: edit.Key, Notes: edit.Notes}
	if edit.MaxAttempts != nil {
		change.MaxAttempts = new(int16(*edit.MaxAttempts)) //nolint:gosec // checked
	}
	letter, err := c.admin.EditDeadLetter(ctx, id, edit.FailedAt, change)
	if conflict, ok := errors.AsType[*pg.DeadLetterConflictError](err); ok {
		err = &DeadLetterConflictError{ID: conflict.ID, FailedAt: conflict.FailedAt, RequeuedJobID: conflict.RequeuedJobID}
	}
	if err != nil {
		return nil, fmt.Errorf("edit dead letter %d: %w", id, err)
	}
	return newDeadLetter(letter), nil
}

func (e DeadLetterEdit) check() error {
	var problems []error
	if e.FailedAt.IsZero() {
		problems = append(problems, errors.New("FailedAt is not set: take it from the dead letter that the edit starts from"))
	}
	if e.Args == nil && e.Priority == nil && e.MaxAttempts == nil && e.Queue == nil && e.Key == nil && e.Notes == nil {
		problems = append(problems, errors.New("nothing to change: set Args, Priority, MaxAttempts, Queue, Key or Notes"))
	}
	if e.Args != nil && len(e.Args) == 0 {
		problems = append(problems, errors.New("args are empty: want JSON"))
	}
	problems = append(problems, checkArgs(e.Args, false))
	if e.MaxAttempts != nil && (*e.MaxAttempts < 1 || *e.MaxAttempts > math.MaxInt16) {
		problems = append(problems, fmt.Errorf("max_attempts is %d: want 1 to %d", *e.MaxAttempts, math.MaxInt16))
	}
	for _, field := range []struct {
		name  string
		value *string
		limit int
	}{{"queue", e.Queue, maxQueueLength}, {"key", e.Key, maxKeyLength}, {"notes", e.Notes, maxErrorText}} {
		if field.value != nil {
			problems = append(problems, checkText(field.name, *field.value, field.limit))
		}
	}
	return errors.Join(problems...)
}

// DeadLetterConflictError says that a dead letter was requeued, or has failed again, since it was
// read, so that an edit would change something else than what its author saw.
type DeadLetterConflictError struct {
	_ [0]func() // fields may be added

	ID            int64
	FailedAt      time.Time // as it is now
	RequeuedJobID int64     // 0: it is not requeued
}

func (e *DeadLetterConflictError) Error() string {
	if e == nil {
		return "dead letter has changed"
	}
	return (&pg.DeadLetterConflictError{ID: e.ID, FailedAt: e.FailedAt, RequeuedJobID: e.RequeuedJobID}).Error()
}

// DeadLetterStats says how many dead letters there are, as [Client.DeadLetterStats] returns it.
// Fields may be added.
type DeadLetterStats struct {
	_ [0]func()

	Total    int64 // without those that are requeued
	Requeued int64 // those whose requeued job has neither succeeded nor failed for good
	// Oldest and Newest are the first and the last FailedAt of Total; zero: there are none.
	Oldest, Newest time.Time
	// Kinds are the most frequent tasks and reasons of Total, 50 at most.
	Kinds []DeadLetterKind
	// Partial says that there are more than 100,000: the numbers are of the newest 100,000.
	Partial bool
}

// DeadLetterKind is how many dead letters have a task and a reason. Fields may be added.
type DeadLetterKind struct {
	_ [0]func()

	Task   string
	Reason DeadLetterReason
	Count  int64
}

// DeadLetterStats counts dead letters, for metrics and alerts. It reads the newest 100,000 at most,
// and waits for no lock of others.
func (c *Client) DeadLetterStats(ctx context.Context) (*DeadLetterStats, error) {
	if err := c.usable(ctx); err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	found, err := c.admin.DeadLetterStats(ctx)
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	stats := &DeadLetterStats{
		Total: found.Letters, Requeued: found.Requeued, Oldest: found.Oldest, Newest: found.Newest, Partial: found.Part,
		Kinds: make([]DeadLetterKind, len(found.Kinds)),
	}
	for i, kind := range found.Kinds {
		stats.Kinds[i] = DeadLetterKind{Task: kind.Task, Reason: DeadLetterReason(kind.Reason), Count: kind.Letters}
	}
	return stats, nil
}
