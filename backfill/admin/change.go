package admin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/backfillhq/go/internal/pg"
)

// ChangeOptions says more about a change. The zero value says nothing.
type ChangeOptions struct {
	_ [0]func() // fields may be added

	// Reason is kept in the record of the change, 10,000 bytes at most.
	Reason string
	// ID is that of the change's record: 1 to 200 bytes, made by who asks for it. A request that is
	// sent again with it changes nothing, and has the outcome of the first. Default: a new one.
	ID string
}

func (o *ChangeOptions) check() error {
	if o.ID == "" {
		o.ID = rand.Text()
	}
	var problems []error
	if o.Reason != "" {
		problems = append(problems, named("reason", checkName(o.Reason)))
	}
	if len(o.ID) > maxRecordID {
		problems = append(problems, fmt.Errorf("the id of the change has %d bytes: want %d at most", len(o.ID), maxRecordID))
	} else {
		problems = append(problems, named("the id of the change", checkName(o.ID)))
	}
	return invalid(errors.Join(problems...))
}

const maxRecordID = 200

// Outcome is what became of something that was to be changed.
type Outcome struct {
	_ [0]func() // fields may be added

	ID     string `json:"id"` // of the job or dead letter in decimal; of a worker, task, queue or cron entry its name
	Task   string `json:"task,omitzero"`
	Queue  string `json:"queue,omitzero"`
	Skip   Skip   `json:"skip,omitzero"`   // why it was left as it was; "": it was changed
	Worker string `json:"worker,omitzero"` // who has it
	// JobID is the job that was enqueued, or that is in the way. 0: none.
	JobID  int64  `json:"job_id,omitzero"`
	Detail string `json:"detail,omitzero"` // a sentence
	// Record is the id of the record of the change; "": nothing was changed.
	Record string `json:"record,omitzero"`
	// Repeated says that an earlier request with the same id has done it.
	Repeated bool `json:"repeated,omitzero"`
}

// Skip says why something was left as it was. New ones may be added.
type Skip string

// Why something is left as it was.
const (
	SkipRunning    = Skip(pg.SkipRunning)    // a Go worker has it
	SkipForeign    = Skip(pg.SkipForeign)    // a worker has it of which nobody can tell whether it lives, as those of Node
	SkipWaiting    = Skip(pg.SkipWaiting)    // it waits for its first attempt: there is nothing to try again
	SkipFailed     = Skip(pg.SkipFailed)     // it has failed for good
	SkipSuperseded = Skip(pg.SkipSuperseded) // a newer job has taken its key, or it was removed, while it ran
	SkipSuspect    = Skip(pg.SkipSuspect)    // it waits for a trial: workers have died that had it
	SkipChanged    = Skip(pg.SkipChanged)    // somebody has changed it since it was seen
	SkipGone       = Skip(pg.SkipGone)       // there is none any more
	SkipLocked     = Skip(pg.SkipLocked)     // another transaction has its row locked, for longer than a second
	SkipRefused    = Skip(pg.SkipRefused)    // the database does not take the change
	SkipForbidden  = Skip(pg.SkipForbidden)  // the principal may not do it; of items of operations only
	SkipRequeued   = Skip(pg.SkipRequeued)   // the dead letter is requeued
	SkipKeyHeld    = Skip(pg.SkipKeyHeld)    // a job that waits or runs has the dead letter's key
	SkipUnlocked   = Skip(pg.SkipUnlocked)   // nobody has locked it
	SkipUnmatched  = Skip(pg.SkipUnmatched)  // its id is in the filter, and something else in the filter is not true of it
	SkipPaused     = Skip("not_paused")      // it is not paused
)

// ErrNoRecords is returned for changes to a database without the tables that they are recorded in.
// Run backfill migrate.
var ErrNoRecords = pg.ErrNoRecords

// change is a change of one thing that is under way.
type change struct {
	admin   *Admin
	action  Action
	target  Target // as it was asked for; the row's task and queue are not known yet
	options ChangeOptions
	detail  any // for the record: no values of payloads
}

// stored is what the record of a change keeps.
type stored struct {
	Outcome Outcome `json:"outcome"`
	Change  any     `json:"change,omitzero"`
}

// run makes the change in a transaction, with its record. An item that is nil is not there, or may
// not be seen.
func (ch *change) run(ctx context.Context, act func(context.Context, *pg.Changing) (*pg.Item, error)) (*Outcome, error) {
	if err := ch.options.check(); err != nil {
		return nil, err
	}
	var outcome *Outcome
	first, err := ch.admin.writer.Change(ctx, ch.options.ID, func(ctx context.Context, c *pg.Changing) (*pg.Record, error) {
		item, err := act(ctx, c)
		switch {
		case err != nil:
			return nil, err
		case item == nil || item.Skip == pg.SkipGone:
			return nil, ErrNotFound
		case item.Skip == pg.SkipForbidden:
			return nil, ErrForbidden
		}
		outcome = ch.outcome(item)
		if outcome.Skip != "" {
			return nil, nil //nolint:nilnil // nothing was changed
		}
		outcome.Record = ch.options.ID
		detail, err := json.Marshal(stored{*outcome, ch.detail})
		if err != nil {
			return nil, err
		}
		return &pg.Record{
			Principal: principal(ctx).Name, Action: string(ch.action), Reason: ch.options.Reason, Kind: string(ch.target.Kind), Target: outcome.ID,
			Task: outcome.Task, Queue: outcome.Queue, Detail: detail,
		}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ch.what(), err)
	}
	if first != nil {
		return ch.repeated(ctx, first)
	}
	return outcome, nil
}

// what names a change in an error.
func (ch *change) what() string {
	what := string(ch.action) + " " + strings.ReplaceAll(string(ch.target.Kind), "_", " ")
	if ch.target.ID == "" {
		return what
	}
	if ch.target.Kind == KindTask || ch.target.Kind == KindQueue {
		return what + " " + quoteShort(ch.target.ID)
	}
	return what + " " + head(ch.target.ID)
}

func (ch *change) outcome(item *pg.Item) *Outcome {
	id := ch.target.ID
	if id == "" {
		id = strconv.FormatInt(item.ID, 10)
	}
	return &Outcome{
		ID: id, Task: item.Task, Queue: item.Queue, Skip: Skip(item.Skip), Worker: item.Worker, JobID: item.JobID, Detail: item.Detail,
	}
}

// repeated is the outcome of an earlier request with the same id.
func (ch *change) repeated(ctx context.Context, first *pg.Record) (*Outcome, error) {
	var s stored
	if err := json.Unmarshal(first.Detail, &s); err != nil {
		return nil, fmt.Errorf("read the record of the change: %w", err)
	}
	same := first.Principal == principal(ctx).Name && first.Action == string(ch.action) && first.Kind == string(ch.target.Kind) &&
		(ch.target.ID == "" || first.Target == ch.target.ID)
	if !same {
		return nil, invalid(fmt.Errorf("the id %s is that of another change: make a new one", quoteShort(ch.options.ID)))
	}
	target := Target{Kind: ch.target.Kind, ID: first.Target, Task: first.Task, Queue: first.Queue}
	if ch.action == ActionEnqueue { // there was no job to ask about
		target.Kind, target.ID = KindTask, first.Task
	}
	if err := ch.admin.allow(ctx, ch.action, target); err != nil {
		return nil, err
	}
	s.Outcome.Repeated = true
	return &s.Outcome, nil
}

// judge decides about rows in the transaction that changes them.
func (a *Admin) judge(ctx context.Context, action Action, kind Kind) pg.May {
	return func(id int64, task, queue string) pg.Verdict {
		switch err := a.allow(ctx, action, Target{Kind: kind, ID: strconv.FormatInt(id, 10), Task: task, Queue: queue}); {
		case err == nil:
			return pg.MayAct
		case errors.Is(err, ErrForbidden):
			return pg.MaySee
		default:
			return pg.MayNothing
		}
	}
}
