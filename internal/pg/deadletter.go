package pg

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// DeadLetter is a row of backfill_dlq.
type DeadLetter struct {
	ID, JobID, RequeuedJobID            int64
	Task, Queue, Key                    string
	Payload                             []byte
	Priority, MaxAttempts, Attempts     int16
	Reason, LastError, FirstError       string
	Failures, Requeues                  int
	CreatedAt, RunAt                    time.Time
	FailedAt, FirstFailedAt, RequeuedAt time.Time
	Notes                               string
	Flags                               []string
	Place                               DeadLetterPlace // in a list
}

// DeadLetterFilter says which dead letters are meant: those that all of it is true of. Nil, and the
// zero value, are not asked for.
type DeadLetterFilter struct {
	IDs, JobIDs                  []int64
	Tasks, Queues, Keys, Reasons []string
	FailedAfter, FailedBefore    time.Time
	ErrorContains                string
	UpTo                         DeadLetterPlace
}

// DeadLetterPlace is where a dead letter is in the order of failures, to the microsecond. The zero
// value is in front of all.
type DeadLetterPlace struct {
	FailedAt pgtype.Timestamptz
	ID       int64
}

// NewDeadLetterPlace returns the place of a finite time.
func NewDeadLetterPlace(at time.Time, id int64) DeadLetterPlace {
	return DeadLetterPlace{pgtype.Timestamptz{Time: at, Valid: true}, id}
}

// DeadLetterPlaceAt returns the place whose time has these Micros.
func DeadLetterPlaceAt(micros, id int64) DeadLetterPlace { return DeadLetterPlace{stampOf(micros), id} }

// Micros are the microseconds from 2000 to the time, which may be infinite, as PostgreSQL counts
// them.
func (p DeadLetterPlace) Micros() int64 {
	switch p.FailedAt.InfinityModifier {
	case pgtype.NegativeInfinity:
		return math.MinInt64
	case pgtype.Infinity:
		return math.MaxInt64
	default:
		return p.FailedAt.Time.UnixMicro() - since2000*1e6
	}
}

// Time returns the time, or the end of PostgreSQL's calendar that is nearest to it.
func (p DeadLetterPlace) Time() time.Time {
	switch p.FailedAt.InfinityModifier {
	case pgtype.Infinity:
		return time.Date(294276, time.December, 31, 0, 0, 0, 0, time.UTC)
	case pgtype.NegativeInfinity:
		return time.Date(-4712, time.January, 1, 0, 0, 0, 0, time.UTC)
	default:
		return p.FailedAt.Time
	}
}

// IsZero reports whether the place is the zero value.
func (p DeadLetterPlace) IsZero() bool { return p == DeadLetterPlace{} }

var (
	frontOfLetters = DeadLetterPlace{pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.NegativeInfinity}, math.MinInt64}
	endOfLetters   = DeadLetterPlace{pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}, math.MaxInt64}
)

// ErrDeadLetterNotFound is returned when there is no dead letter with an id.
var ErrDeadLetterNotFound = errors.New("there is no such dead letter: it was deleted, or is over its retention, " +
	"or its job has succeeded since")

// DeadLetterConflictError says that a dead letter has changed since it was read.
type DeadLetterConflictError struct {
	ID            int64
	FailedAt      time.Time // as it is now
	RequeuedJobID int64     // 0: it is not requeued
}

func (e *DeadLetterConflictError) Error() string {
	if e.RequeuedJobID != 0 {
		return fmt.Sprintf("dead letter %d was requeued as job %d since it was read", e.ID, e.RequeuedJobID)
	}
	return fmt.Sprintf("dead letter %d has failed again, at %s, since it was read: read it again", e.ID, e.FailedAt.UTC().Format(time.RFC3339Nano))
}

// planForValues has the server plan each statement for its values: one whose conditions are not
// asked for does not evaluate them, and an index serves those that are.
const planForValues = "select pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true)"

// DeadLetters returns a page of dead letters behind a place, the newest first; the zero place is in
// front of all.
func (a *Admin) DeadLetters(ctx context.Context, f DeadLetterFilter, requeued bool, behind DeadLetterPlace, size int) (page []*DeadLetter, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		if _, err := db.Exec(ctx, planForValues); err != nil {
			return err
		}
		page, err = f.page(ctx, query.New(db), requeued, behind, size)
		return err
	})
	return page, a.settings.explainWork(err)
}

// DeadLetters is [Admin.DeadLetters] in an answer.
func DeadLetters(ctx context.Context, r *Reader, f DeadLetterFilter, requeued bool, behind DeadLetterPlace, size int) ([]*DeadLetter, error) {
	return Fact(ctx, r, "the dead letters", func(q *query.Queries, ctx context.Context) ([]*DeadLetter, error) {
		return f.page(ctx, q, requeued, behind, size)
	})
}

func (f DeadLetterFilter) page(ctx context.Context, q *query.Queries, requeued bool, behind DeadLetterPlace, size int) ([]*DeadLetter, error) {
	if behind.IsZero() {
		behind = endOfLetters
	}
	rows, err := q.DeadLetters(ctx, query.DeadLettersParams{
		Before: behind.FailedAt, BeforeID: behind.ID, Requeued: requeued,
		Ids: f.IDs, JobIds: f.JobIDs, Tasks: f.Tasks, Queues: f.Queues, Keys: f.Keys, Reasons: f.Reasons,
		FailedAfter: nullTime(f.FailedAfter), FailedBefore: nullTime(f.FailedBefore), ErrorContains: nullText(f.ErrorContains),
		UpTo: f.UpTo.FailedAt, UpToID: pgtype.Int8{Int64: f.UpTo.ID, Valid: !f.UpTo.IsZero()}, Size: int32(size), //nolint:gosec // bounded
	})
	if err != nil {
		return nil, err
	}
	page := make([]*DeadLetter, len(rows))
	for i := range rows {
		if page[i], err = newDeadLetter(&rows[i]); err != nil {
			return nil, err
		}
	}
	return page, nil
}

// DeadLetter returns a dead letter, or ErrDeadLetterNotFound.
func (a *Admin) DeadLetter(ctx context.Context, id int64) (*DeadLetter, error) {
	page, err := a.DeadLetters(ctx, DeadLetterFilter{IDs: []int64{id}}, true, DeadLetterPlace{}, 1)
	if err == nil && len(page) == 0 {
		err = ErrDeadLetterNotFound
	}
	if err != nil {
		return nil, err
	}
	return page[0], nil
}

// DeadLetterOfJob returns the dead letter that a job has become and that is not requeued, or
// ErrDeadLetterNotFound.
func (a *Admin) DeadLetterOfJob(ctx context.Context, jobID int64) (*DeadLetter, error) {
	page, err := a.DeadLetters(ctx, DeadLetterFilter{JobIDs: []int64{jobID}}, false, DeadLetterPlace{}, 1)
	if err == nil && len(page) == 0 {
		err = ErrDeadLetterNotFound
	}
	if err != nil {
		return nil, err
	}
	return page[0], nil
}

func newDeadLetter(row *query.DeadLettersRow) (*DeadLetter, error) {
	failed, err := readStamp(row.FailedAt)
	if err != nil {
		return nil, err
	}
	d := &DeadLetter{
		ID: row.ID, JobID: row.OriginalJobID, RequeuedJobID: row.RequeuedJobID, Task: row.TaskIdentifier, Queue: row.Queue, Key: row.Key,
		Payload: row.Payload, Priority: row.Priority, MaxAttempts: row.MaxAttempts, Attempts: row.Attempts, Reason: row.FailureReason,
		LastError: row.LastError, FirstError: row.FirstError, Failures: int(row.FailureCount), Requeues: int(row.RequeuedCount),
		Notes: row.Notes, Flags: flagNames(row.Flags), Place: DeadLetterPlace{failed, row.ID},
	}
	for hex, to := range map[*string]*time.Time{
		&row.OriginalCreatedAt: &d.CreatedAt, &row.OriginalRunAt: &d.RunAt, &row.FailedAt: &d.FailedAt,
		&row.FirstFailedAt: &d.FirstFailedAt, &row.LastRequeuedAt: &d.RequeuedAt,
	} {
		if err := (*hexTime)(to).ScanBytes([]byte(*hex)); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// readStamp reads a time from its binary format, in hex. Unlike a time.Time it can be infinite.
func readStamp(hex string) (pgtype.Timestamptz, error) {
	bits, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return pgtype.Timestamptz{}, fmt.Errorf("read a time: %w", err)
	}
	return stampOf(int64(bits)), nil //nolint:gosec // two's complement
}

// stampOf returns the time of microseconds since 2000.
func stampOf(micros int64) pgtype.Timestamptz {
	stamp := pgtype.Timestamptz{Valid: true}
	switch micros {
	case math.MinInt64:
		stamp.InfinityModifier = pgtype.NegativeInfinity
	case math.MaxInt64:
		stamp.InfinityModifier = pgtype.Infinity
	default: // in UTC, because stamps are compared
		stamp.Time = time.Unix(since2000+micros/1e6, micros%1e6*1e3).UTC()
	}
	return stamp
}

func nullText(s string) pgtype.Text { return pgtype.Text{String: s, Valid: s != ""} }

// LastDeadLetter returns a place behind all dead letters that there are: the greatest id, and the
// time of the latest failure. It is zero if there are none.
func (a *Admin) LastDeadLetter(ctx context.Context) (place DeadLetterPlace, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		row, err := query.New(db).LastDeadLetter(ctx)
		if err != nil || row.ID == 0 {
			return err
		}
		place.ID = row.ID
		place.FailedAt, err = readStamp(row.FailedAt)
		return err
	})
	return place, a.settings.explainWork(err)
}

// FindDeadLetters returns the places of dead letters behind a place, the oldest first, without
// those that are requeued.
func (a *Admin) FindDeadLetters(ctx context.Context, f DeadLetterFilter, behind DeadLetterPlace, size int) (places []DeadLetterPlace, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		if _, err := db.Exec(ctx, planForValues); err != nil {
			return err
		}
		rows, err := query.New(db).FindDeadLetters(ctx, f.params(behind, size))
		if err != nil {
			return err
		}
		places = make([]DeadLetterPlace, len(rows))
		for i, row := range rows {
			places[i].ID = row.ID
			if places[i].FailedAt, err = readStamp(row.FailedAt); err != nil {
				return err
			}
		}
		return nil
	})
	return places, a.settings.explainWork(err)
}

// params are those to find dead letters behind a place; the zero place is in front of all.
func (f *DeadLetterFilter) params(behind DeadLetterPlace, size int) query.FindDeadLettersParams {
	if behind.IsZero() {
		behind = frontOfLetters
	}
	return query.FindDeadLettersParams{
		After: behind.FailedAt, AfterID: behind.ID,
		Ids: f.IDs, JobIds: f.JobIDs, Tasks: f.Tasks, Queues: f.Queues, Keys: f.Keys, Reasons: f.Reasons,
		FailedAfter: nullTime(f.FailedAfter), FailedBefore: nullTime(f.FailedBefore), ErrorContains: nullText(f.ErrorContains),
		UpTo: f.UpTo.FailedAt, UpToID: pgtype.Int8{Int64: f.UpTo.ID, Valid: !f.UpTo.IsZero()}, Size: int32(size), //nolint:gosec // bounded
	}
}

// DeadLetterKind is how many dead letters have a task and a reason.
type DeadLetterKind struct {
	Task, Reason string
	Letters      int64
}

// DeadLetterStats says how many dead letters there are.
type DeadLetterStats struct {
	Letters, Requeued int64
	Oldest, Newest    time.Time
	Kinds             []DeadLetterKind
	Part              bool // there are more, which were not counted
}

// What DeadLetterStats reads and returns at most.
const (
	countedLetters = 100_000
	letterKinds    = 50
)

// DeadLetterStats counts the newest dead letters.
func (a *Admin) DeadLetterStats(ctx context.Context) (stats DeadLetterStats, err error) {
	err = a.in(ctx, func(ctx context.Context, db query.DBTX) error {
		stats, err = countLetters(ctx, query.New(db), a.letters)
		return err
	})
	return stats, a.settings.explainWork(err)
}

// CountDeadLetters is [Admin.DeadLetterStats] in an answer.
func CountDeadLetters(ctx context.Context, r *Reader) (DeadLetterStats, error) {
	return Fact(ctx, r, "the dead letters", func(q *query.Queries, ctx context.Context) (DeadLetterStats, error) {
		return countLetters(ctx, q, countedLetters)
	})
}

func countLetters(ctx context.Context, q *query.Queries, most int) (stats DeadLetterStats, err error) {
	rows, err := q.DeadLetterStats(ctx, query.DeadLetterStatsParams{Size: int32(most), Top: letterKinds}) //nolint:gosec // bounded
	if err != nil {
		return stats, err
	}
	for _, row := range rows {
		if row.Oldest == "" { // only the first one has it: a task's name can be empty
			stats.Kinds = append(stats.Kinds, DeadLetterKind{row.Task, row.Reason, row.Letters})
			continue
		}
		stats.Letters, stats.Requeued = row.Letters, row.Requeued
		if err := (*hexTime)(&stats.Oldest).ScanBytes([]byte(row.Oldest)); err != nil {
			return stats, err
		}
		if err := (*hexTime)(&stats.Newest).ScanBytes([]byte(row.Newest)); err != nil {
			return stats, err
		}
	}
	stats.Part = stats.Letters+stats.Requeued >= int64(most)
	return stats, nil
}
