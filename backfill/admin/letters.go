package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// Letter is a dead letter: a job that failed for good, without what the principal may not see.
type Letter struct {
	ID            int64     `json:"id"`     // of the dead letter; the ids of jobs are others
	JobID         int64     `json:"job_id"` // that the job had when it failed last
	Task          string    `json:"task"`
	Queue         string    `json:"queue,omitempty"`
	Key           string    `json:"key,omitempty"`
	Priority      int       `json:"priority"`
	Flags         []string  `json:"flags,omitempty"`
	Attempts      int       `json:"attempts"`
	MaxAttempts   int       `json:"max_attempts"`
	Reason        string    `json:"reason"` // exhausted, permanent, crashed, interrupted or swept
	LastError     string    `json:"last_error"`
	FailedAt      time.Time `json:"failed_at"`
	Failures      int       `json:"failures"` // how often it has failed for good
	FirstError    string    `json:"first_error"`
	FirstFailedAt time.Time `json:"first_failed_at"`
	CreatedAt     time.Time `json:"created_at"`
	RunAt         time.Time `json:"run_at"`
	Requeues      int       `json:"requeues"`
	RequeuedAt    time.Time `json:"requeued_at,omitzero"`
	RequeuedJobID int64     `json:"requeued_job_id,omitempty"`
	Notes         string    `json:"notes,omitempty"`

	// Payload is JSON, as it is stored, apart from what is hidden. It is nil in a list if it is over
	// 4,000 bytes, and if it is over 4 MB.
	Payload      json.RawMessage `json:"payload,omitempty"`
	PayloadBytes int64           `json:"payload_bytes"`
	Redacted     bool            `json:"redacted,omitempty"` // some of the payload is hidden
}

// LetterPage says which part of a list is wanted. The zero value is the first page.
type LetterPage struct {
	_ [0]func() // fields may be added

	After string // LetterList.Next of the page before; "": the first page
	Size  int    // 1 to 1,000. Default: 50
}

// LetterList is a page of dead letters.
type LetterList struct {
	At      time.Time `json:"at"` // by the database's clock
	Letters []Letter  `json:"letters"`
	Next    string    `json:"next,omitempty"` // for LetterPage.After; "": this was the last page
	Missing []Missing `json:"missing,omitempty"`
}

// Letters returns a page of dead letters, those that failed last first. Dead letters that fail
// meanwhile move no page that follows.
func (a *Admin) Letters(ctx context.Context, filter LetterFilter, page LetterPage) (*LetterList, error) {
	place, err := parseLetterPlace(page.After)
	if page.Size < 0 || page.Size > mostPage {
		err = errors.Join(err, invalid(fmt.Errorf("the size of a page is %d: want 1 to %d", page.Size, mostPage)))
	}
	if err = errors.Join(filter.Check(), err); err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	size := page.Size
	if size == 0 {
		size = defaultPage
	}
	var list *LetterList
	err = a.read(ctx, func(r *reading) error {
		list = &LetterList{At: r.now, Letters: []Letter{}}
		defer func() { list.Missing = r.missing() }()
		for began := time.Now(); r.seesLetters(); {
			rows, err := pg.DeadLetters(r.ctx, r.reader, filter.toPG(), filter.Requeued, place, size+1)
			if err != nil {
				return unlessMissing(err)
			}
			for _, row := range rows {
				if len(list.Letters) == size {
					list.Next = writeLetterPlace(place)
					return nil
				}
				place = row.Place
				letter := a.newLetter(ctx, row, listPayload)
				if !a.may(ctx, ActionRead, letterTarget(row)) || !strings.Contains(letter.LastError, filter.ErrorContains) {
					continue // what is hidden cannot be searched for
				}
				letter.LastError, letter.FirstError = firstOf(letter.LastError, listError), firstOf(letter.FirstError, listError)
				list.Letters = append(list.Letters, letter)
			}
			if len(rows) <= size {
				return nil
			}
			if time.Since(began) > searchTime {
				list.Next = writeLetterPlace(place)
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return list, nil
}

// Letter returns a dead letter, also if it is requeued, or ErrNotFound.
func (a *Admin) Letter(ctx context.Context, id int64) (*Letter, error) {
	var letter *Letter
	err := a.read(ctx, func(r *reading) error {
		if !r.seesLetters() {
			if len(r.reader.Missing) > 0 {
				return r.unreadable()
			}
			return ErrNotFound
		}
		rows, err := pg.DeadLetters(r.ctx, r.reader, pg.DeadLetterFilter{IDs: []int64{id}}, true, pg.DeadLetterPlace{}, 1)
		switch {
		case errors.Is(err, pg.ErrMissing):
			return r.unreadable()
		case err != nil:
			return err
		case len(rows) == 0 || !a.may(ctx, ActionRead, letterTarget(rows[0])):
			return ErrNotFound
		}
		found := a.newLetter(ctx, rows[0], showPayload)
		letter = &found
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("show dead letter %d: %w", id, err)
	}
	return letter, nil
}

// seesLetters reports whether there are dead letters that this role may read, and notes what it may
// not.
func (r *reading) seesLetters() bool {
	relation, there := r.relations[lettersTable]
	if !there || !r.can(lettersTable, "the dead letters") {
		return false
	}
	if relation.Hidden {
		r.miss("the dead letters", "row level security hides some or all of them from role "+r.server.Role)
	}
	return true
}

const lettersTable = "backfill_dlq"

func letterTarget(row *pg.DeadLetter) Target {
	return Target{Kind: KindDeadLetter, ID: strconv.FormatInt(row.ID, 10), Task: row.Task, Queue: row.Queue}
}

// newLetter shows a row to the principal.
func (a *Admin) newLetter(ctx context.Context, row *pg.DeadLetter, payloadLimit int) Letter {
	shown := a.redact(ctx, letterTarget(row), row.Payload)
	l := Letter{
		ID: row.ID, JobID: row.JobID, Task: row.Task, Queue: row.Queue, Key: row.Key, Priority: int(row.Priority), Flags: row.Flags,
		Attempts: int(row.Attempts), MaxAttempts: int(row.MaxAttempts), Reason: row.Reason, LastError: shown.text(row.LastError, false),
		FailedAt: row.FailedAt.UTC(), Failures: row.Failures, FirstError: shown.text(row.FirstError, false), FirstFailedAt: row.FirstFailedAt.UTC(),
		CreatedAt: row.CreatedAt.UTC(), RunAt: row.RunAt.UTC(), Requeues: row.Requeues, RequeuedAt: row.RequeuedAt.UTC(),
		RequeuedJobID: row.RequeuedJobID, Notes: shown.text(row.Notes, false), PayloadBytes: int64(len(row.Payload)), Redacted: shown.hidden,
	}
	if len(shown.payload) <= payloadLimit {
		l.Payload = shown.payload
	}
	return l
}

// A place is written as microseconds and id.
func writeLetterPlace(p pg.DeadLetterPlace) string { return fmt.Sprintf("%d.%d", p.Micros(), p.ID) }

func parseLetterPlace(text string) (place pg.DeadLetterPlace, err error) {
	if text == "" {
		return place, nil
	}
	micros, id, _ := strings.Cut(text, ".")
	at, problem := strconv.ParseInt(micros, 10, 64)
	number, second := strconv.ParseInt(id, 10, 64)
	if problem != nil || second != nil {
		return place, invalid(fmt.Errorf("the page %s is none: pass what Next of the page before says", quoteShort(text)))
	}
	return pg.DeadLetterPlaceAt(at, number), nil
}

// LetterStats says how many dead letters there are, of those that the principal may read.
type LetterStats struct {
	At    time.Time `json:"at"`    // by the database's clock
	Total Count     `json:"total"` // without those that are requeued
	// Requeued is how many are requeued, and their jobs have neither succeeded nor failed for good since.
	// It is nil where a principal may see only some.
	Requeued *Count `json:"requeued,omitempty"`
	// Oldest and Newest are the first and the last failure of Total. They are not told where a principal
	// may see only some.
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	// Kinds are the most frequent tasks and reasons of Total, 50 at most.
	Kinds   []LetterKind `json:"kinds"`
	Missing []Missing    `json:"missing,omitempty"`
}

// LetterKind is how many dead letters have a task and a reason.
type LetterKind struct {
	Task   string `json:"task"`
	Reason string `json:"reason"`
	Count  Count  `json:"count"`
}

// LetterStats counts dead letters: the newest 100,000.
func (a *Admin) LetterStats(ctx context.Context) (*LetterStats, error) {
	var stats *LetterStats
	err := a.read(ctx, func(r *reading) error {
		stats = &LetterStats{At: r.now, Kinds: []LetterKind{}, Total: Count{Exact: true}}
		defer func() { stats.Missing = r.missing() }()
		if !r.seesLetters() {
			return nil
		}
		found, err := pg.CountDeadLetters(r.ctx, r.reader)
		if err != nil {
			return unlessMissing(err)
		}
		count := func(n int64) Count { return Count{N: n, Exact: !found.Part, More: found.Part} }
		whole := a.seesAll(ctx)
		if stats.Total = count(0); whole {
			requeued := count(found.Requeued)
			stats.Total, stats.Requeued, stats.Oldest, stats.Newest = count(found.Letters), &requeued, found.Oldest.UTC(), found.Newest.UTC()
		}
		for _, kind := range found.Kinds {
			if !a.may(ctx, ActionRead, Target{Kind: KindDeadLetter, Task: kind.Task}) {
				continue
			}
			stats.Kinds = append(stats.Kinds, LetterKind{kind.Task, kind.Reason, count(kind.Letters)})
			if !whole {
				stats.Total.N += kind.Letters
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	return stats, nil
}
