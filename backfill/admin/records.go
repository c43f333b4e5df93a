package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// keeping is how long records and operations are kept.
type keeping struct{ records, operations time.Duration }

// How long records and operations are kept.
const (
	defaultRecords    = 400 * 24 * time.Hour
	defaultOperations = 30 * 24 * time.Hour
)

// WithRetention says how long records of changes are kept, and operations with what became of their
// items. Who changes something deletes what is older, some at a time, if its role may. Default, also
// for 0: 400 days and 30 days.
func WithRetention(records, operations time.Duration) Option {
	return func(a *Admin) { a.keeps = keeping{records, operations} }
}

// expire deletes what is kept for too long. Nothing depends on it.
func (a *Admin) expire(ctx context.Context) {
	keeps := a.keeps
	if keeps.records <= 0 {
		keeps.records = defaultRecords
	}
	if keeps.operations <= 0 {
		keeps.operations = defaultOperations
	}
	_ = a.writer.Expire(ctx, keeps.records, keeps.operations) // a role may have no right to delete records
}

// Record says who has changed something, and why. The database's clock says when.
type Record struct {
	_ [0]func() // fields may be added

	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	Principal string    `json:"principal"` // "": nobody was named
	Action    Action    `json:"action"`
	Kind      Kind      `json:"kind"`
	Target    string    `json:"target"` // the id of what was changed, or its name
	Task      string    `json:"task,omitzero"`
	Queue     string    `json:"queue,omitzero"`
	Reason    string    `json:"reason,omitzero"`
	// Operation is the one that the record is about: what became of its items, OperationItems tells.
	Operation int64 `json:"operation,omitzero"`
	// Detail says what was changed, and what it came to. It has no values of payloads.
	Detail json.RawMessage `json:"detail"`
}

// RecordFilter says which records are meant: those that everything in it is true of.
type RecordFilter struct {
	_ [0]func() // fields may be added

	Principals []string  `json:"principals,omitzero"`
	Actions    []Action  `json:"actions,omitzero"`
	Kind       Kind      `json:"kind,omitzero"`
	Target     string    `json:"target,omitzero"` // beside Kind
	From       time.Time `json:"from,omitzero"`   // then or later
	Before     time.Time `json:"before,omitzero"`
}

// RecordList is a page of records.
type RecordList struct {
	_ [0]func() // fields may be added

	Records []*Record `json:"records"`
	Next    string    `json:"next,omitzero"` // for the page behind it; "": this is the last one
	// Missing says why records could not be read; "": they were.
	Missing string `json:"missing,omitzero"`
}

// maxPage is how many records, operations or items a page has at most.
const maxPage = 1000

func checkPage(size int) (int, error) {
	const usual = 50
	switch {
	case size == 0:
		return usual, nil
	case size < 0 || size > maxPage:
		return 0, fmt.Errorf("the size of a page is %d: want 1 to %d", size, maxPage)
	default:
		return size, nil
	}
}

// Records returns a page of the records of changes, the newest first: size of them, 50 if it is 0,
// behind what Next of the page before says. Those of targets that the principal may not read are
// left out.
func (a *Admin) Records(ctx context.Context, f RecordFilter, behind string, size int) (*RecordList, error) {
	size, err := checkPage(size)
	filter := pg.RecordFilter{Principals: f.Principals, Kind: string(f.Kind), Target: f.Target, From: f.From, Before: f.Before}
	for _, action := range f.Actions {
		filter.Actions = append(filter.Actions, string(action))
	}
	err = errors.Join(err, checkList("principals", f.Principals, checkName), checkList("actions", filter.Actions, checkName), checkTimes("at", f.From, f.Before))
	if behind != "" {
		at, id, cut := strings.Cut(behind, " ")
		var problem error
		if filter.BehindAt, problem = time.Parse(time.RFC3339Nano, at); problem != nil || !cut {
			err = errors.Join(err, fmt.Errorf("the page %s is none: pass what Next of the page before says", quoteShort(behind)))
		}
		filter.Behind = id
	}
	if err != nil {
		return nil, invalid(err)
	}
	list := &RecordList{Records: []*Record{}}
	list.Missing, err = a.list(ctx, func(ctx context.Context, r *pg.Reader) error {
		found, err := pg.Records(ctx, r, filter, size+1)
		if len(found) > size {
			last := found[size-1]
			list.Next, found = last.At.UTC().Format(time.RFC3339Nano)+" "+last.ID, found[:size]
		}
		for _, row := range found {
			if a.may(ctx, ActionRead, Target{Kind: Kind(row.Kind), ID: row.Target, Task: row.Task, Queue: row.Queue}) {
				list.Records = append(list.Records, &Record{
					ID: row.ID, At: row.At.UTC(), Principal: row.Principal, Action: Action(row.Action), Kind: Kind(row.Kind), Target: row.Target,
					Task: row.Task, Queue: row.Queue, Reason: row.Reason, Operation: row.Operation, Detail: row.Detail,
				})
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	return list, nil
}

// list reads a list, within the time of an answer. Missing says why it could not be read.
func (a *Admin) list(ctx context.Context, read func(context.Context, *pg.Reader) error) (missing string, err error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout+answerTimeout)
	defer cancel()
	err = pg.Read(ctx, a.pool, a.schema, func(r *pg.Reader) error {
		err := read(ctx, r)
		if errors.Is(err, pg.ErrMissing) && len(r.Missing) > 0 {
			missing = r.Missing[0].What + ": " + r.Missing[0].Why
			return nil
		}
		return err
	})
	return missing, err
}
