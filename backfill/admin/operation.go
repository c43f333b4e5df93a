package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// Bulk says what an operation is to do, and with what: either Jobs or DeadLetters is set.
type Bulk struct {
	_ [0]func() // fields may be added

	// Action is ActionRetry, ActionCancel, ActionDelete or ActionReschedule for jobs, and ActionRequeue
	// or ActionDelete for dead letters.
	Action      Action        `json:"action"`
	Jobs        *JobFilter    `json:"jobs,omitzero"`
	DeadLetters *LetterFilter `json:"dead_letters,omitzero"`
	// All says that a filter with no other fields is meant: it is refused without.
	All bool `json:"all,omitzero"`

	Reschedule *Reschedule `json:"reschedule,omitzero"` // for ActionReschedule
	Notes      string      `json:"notes,omitzero"`      // of those that are requeued; "": they stay
	// PerSecond is how many items are changed in a second at most. Default: 0, no limit.
	PerSecond float64 `json:"per_second,omitzero"`
	// Uncounted says that nothing is counted: what matches is meant, however much it is.
	Uncounted bool `json:"uncounted,omitzero"`
}

// Place says what an operation changes.
type Place string

// The places.
const (
	PlaceJobs        Place = "jobs"
	PlaceDeadLetters Place = "dead_letters"
)

func (p Place) kind() Kind {
	if p == PlaceDeadLetters {
		return KindDeadLetter
	}
	return KindJob
}

func (b *Bulk) check() error {
	var problems []error
	add := func(problem error) { problems = append(problems, problem) }
	jobs, letters := b.Jobs != nil, b.DeadLetters != nil
	switch {
	case jobs == letters:
		add(errors.New("want jobs or dead_letters, and one of them"))
	case jobs:
		add(b.Jobs.Check())
		if b.Jobs.PayloadContains != nil {
			add(errors.New("payload_contains cannot select what is changed: list the jobs, and pass their ids"))
		}
		if b.Action != ActionRetry && b.Action != ActionCancel && b.Action != ActionDelete && b.Action != ActionReschedule {
			add(fmt.Errorf("the action for jobs is %s: want retry, cancel, delete or reschedule", quoteShort(string(b.Action))))
		}
	default:
		add(b.DeadLetters.Check())
		if b.DeadLetters.Requeued {
			add(errors.New("requeued is for lists: what is requeued cannot be changed"))
		}
		if b.Action != ActionRequeue && b.Action != ActionDelete {
			add(fmt.Errorf("the action for dead letters is %s: want requeue or delete", quoteShort(string(b.Action))))
		}
	}
	switch empty := jobs && b.Jobs.IsEmpty() || letters && b.DeadLetters.IsEmpty(); {
	case empty && !b.All:
		add(errors.New("the filter is empty: set a field, or all if all are meant"))
	case !empty && b.All:
		add(errors.New("all beside a filter: leave out one or the other"))
	}
	switch reschedules := b.Action == ActionReschedule; {
	case reschedules && b.Reschedule == nil:
		add(errors.New("reschedule is not set: say when the jobs are to run"))
	case reschedules:
		add(b.Reschedule.check())
	case b.Reschedule != nil:
		add(fmt.Errorf("reschedule is set, and the action is %s", b.Action))
	}
	if b.Notes != "" {
		add(named("notes", checkName(b.Notes)))
		if b.Action != ActionRequeue {
			add(errors.New("notes are for dead letters that are requeued"))
		}
	}
	if !(b.PerSecond >= 0) || math.IsInf(b.PerSecond, 1) { // NaN, too
		add(fmt.Errorf("per_second is %v: want a number above 0, or 0 for no limit", b.PerSecond))
	}
	return invalid(errors.Join(problems...))
}

// changeOfJobs is what a Bulk does with jobs.
func (b *Bulk) changeOfJobs() *pg.JobChange {
	if b.Action == ActionReschedule {
		return b.Reschedule.toPG()
	}
	return &pg.JobChange{Act: pg.JobAct(b.Action)}
}

// Operation is a change of many jobs or dead letters. It is stored: any process can carry it on.
type Operation struct {
	_ [0]func() // fields may be added

	ID        int64           `json:"id"` // 0: a preview that nothing matches is not stored
	Place     Place           `json:"place"`
	Action    Action          `json:"action"`
	Filter    json.RawMessage `json:"filter"` // JobFilter or LetterFilter; {}: all
	Words     string          `json:"words"`  // what the filter says
	PerSecond float64         `json:"per_second,omitzero"`
	State     OperationState  `json:"state"`
	Principal string          `json:"principal,omitzero"` // who has started it
	Reason    string          `json:"reason,omitzero"`

	// Matched is how many items matched when it was previewed, 10,000 at most; with More, there were
	// more, or not all jobs were looked at.
	Matched int  `json:"matched"`
	More    bool `json:"more,omitzero"`

	Acted     int64        `json:"acted"`
	Skipped   int64        `json:"skipped"`
	SkippedBy map[Skip]int `json:"skipped_by,omitzero"` // of the first 100,000; of a preview, of those that matched

	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	CarriedAt time.Time `json:"carried_at,omitzero"` // when its last step was done
	Error     string    `json:"error,omitzero"`      // that stopped it
}

// OperationState says how an operation stands.
type OperationState string

// The states of operations.
const (
	OperationPreviewed OperationState = pg.OperationPreviewed // nothing was changed
	OperationRunning   OperationState = pg.OperationRunning   // it goes on while somebody carries it on: Carry
	OperationStopped   OperationState = pg.OperationStopped
	OperationDone      OperationState = pg.OperationDone
)

// Preview is what an operation would do.
type Preview struct {
	_ [0]func() // fields may be added

	Operation Operation `json:"operation"`
	// Token starts it, within an hour. "": nothing matches.
	Token string `json:"token,omitzero"`
	// Items are the first 20 that match.
	Items []OperationItem `json:"items"`
}

// OperationItem is what became of a job or a dead letter.
type OperationItem struct {
	_ [0]func() // fields may be added

	ID     int64     `json:"id"`
	At     time.Time `json:"at,omitzero"`
	Task   string    `json:"task,omitzero"`
	Queue  string    `json:"queue,omitzero"`
	Skip   Skip      `json:"skip,omitzero"`   // why it was left as it was; "": it was changed
	Worker string    `json:"worker,omitzero"` // who has it
	JobID  int64     `json:"job_id,omitzero"` // that it was requeued as, or that is in the way
	Detail string    `json:"detail,omitzero"` // a sentence
}

const (
	previewed      = 10_000
	previewedItems = 20
	previewSteps   = 10 // of 20,000 jobs
)

// Preview stores an operation, and fixes what it means: what matches now. What comes later is out,
// and what somebody changes until it is its turn is skipped. It counts to 10,000, and looks at 200,000
// jobs at most. Nothing else is changed until Start is called with its token.
func (a *Admin) Preview(ctx context.Context, bulk Bulk) (*Preview, error) {
	if err := bulk.check(); err != nil {
		return nil, err
	}
	if err := a.allow(ctx, bulk.Action, Target{Kind: KindOperation}); err != nil {
		return nil, fmt.Errorf("preview %s of %s: %w", bulk.Action, bulk.place(), err)
	}
	o, err := a.newOperation(ctx, &bulk)
	if err != nil {
		return nil, err
	}
	p := &Preview{Items: []OperationItem{}}
	_, err = a.writer.Change(ctx, rand.Text(), func(ctx context.Context, c *pg.Changing) (*pg.Record, error) {
		*p = Preview{Items: []OperationItem{}}
		if err := fix(ctx, c, o); err != nil {
			return nil, err
		}
		if !bulk.Uncounted {
			if err := a.count(ctx, c, &bulk, o, p); err != nil {
				return nil, err
			}
			if o.Matched == 0 && !o.More {
				return nil, nil //nolint:nilnil // there is nothing to store
			}
		}
		token := rand.Text() + rand.Text()
		o.Token = hashOf(token)
		p.Token = token
		return nil, c.AddOperation(ctx, o)
	})
	if err != nil {
		return nil, fmt.Errorf("preview %s of %s: %w", bulk.Action, bulk.place(), err)
	}
	a.expire(ctx)
	operation, err := newOperation(o)
	if err != nil {
		return nil, err
	}
	operation.SkippedBy = p.Operation.SkippedBy
	p.Operation = *operation
	return p, nil
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func (b *Bulk) place() Place {
	if b.DeadLetters != nil {
		return PlaceDeadLetters
	}
	return PlaceJobs
}

// storedChange is what is kept of a Bulk beside its filter.
type storedChange struct {
	Reschedule *Reschedule `json:"reschedule,omitzero"`
	Notes      string      `json:"notes,omitzero"`
}

func (a *Admin) newOperation(ctx context.Context, bulk *Bulk) (*pg.Operation, error) {
	var filter any = bulk.Jobs
	if bulk.DeadLetters != nil {
		filter = bulk.DeadLetters
	}
	text, err := json.Marshal(filter)
	if err != nil {
		return nil, invalid(err)
	}
	change, err := json.Marshal(storedChange{bulk.Reschedule, bulk.Notes})
	if err != nil {
		return nil, invalid(err)
	}
	who := principal(ctx)
	return &pg.Operation{
		Place: string(bulk.place()), Action: string(bulk.Action), Filter: text, Change: change, PerSecond: bulk.PerSecond,
		Principal: who.Name, Roles: who.Roles, Restricted: a.authorize != nil, State: pg.OperationPreviewed,
		Matched: 0, More: bulk.Uncounted,
	}, nil
}

// fix notes what is there now.
func fix(ctx context.Context, c *pg.Changing, o *pg.Operation) error {
	if Place(o.Place) == PlaceDeadLetters {
		last, err := c.LastLetter(ctx)
		o.SeenAt, o.UpTo = last.FailedAt, last.ID
		return err
	}
	seen, last, err := c.SeenNow(ctx)
	o.SeenAt, o.UpTo = seen, last
	return err
}

// count counts what matches and the principal may see, and says what would be skipped.
func (a *Admin) count(ctx context.Context, c *pg.Changing, bulk *Bulk, o *pg.Operation, p *Preview) error {
	p.Operation.SkippedBy = map[Skip]int{}
	o.Matched, o.More = 0, false
	may := a.judge(ctx, bulk.Action, Place(o.Place).kind())
	after := pg.DeadLetterPlace{}
	for step := 0; ; step++ {
		if step == previewSteps || o.Matched > previewed {
			o.More, o.Matched = true, min(o.Matched, previewed)
			return nil
		}
		found, reached, err := find(ctx, c, bulk, o, after, previewed+1-o.Matched)
		if err != nil {
			return err
		}
		switch {
		case bulk.Jobs != nil:
			err = c.Preview(ctx, found, bulk.changeOfJobs())
		case bulk.Action == ActionRequeue:
			err = c.PreviewLetters(ctx, found)
		}
		if err != nil {
			return err
		}
		for _, item := range found {
			verdict := may(item.ID, item.Task, item.Queue)
			if verdict == pg.MayNothing {
				continue
			}
			if verdict == pg.MaySee {
				item.Skip, item.Worker = pg.SkipForbidden, ""
			}
			if o.Matched++; o.Matched > previewed {
				break
			}
			if item.Skip != "" {
				p.Operation.SkippedBy[Skip(item.Skip)]++
			}
			if len(p.Items) < previewedItems {
				p.Items = append(p.Items, OperationItem{ID: item.ID, Task: item.Task, Queue: item.Queue, Skip: Skip(item.Skip), Worker: item.Worker})
			}
		}
		if reached == nil && o.Matched <= previewed {
			return nil
		}
		if reached != nil {
			after = *reached
		}
	}
}

// find returns the next items of an operation behind a place, and how far it has looked; nil: that
// was all.
func find(ctx context.Context, c *pg.Changing, bulk *Bulk, o *pg.Operation, after pg.DeadLetterPlace, size int) (
	found []pg.FoundItem, reached *pg.DeadLetterPlace, err error,
) {
	if bulk.Jobs != nil {
		found, id, err := c.FindJobs(ctx, bulk.Jobs.toPG(), after.ID, o.UpTo, size)
		if err != nil || id >= o.UpTo {
			return found, nil, err
		}
		return found, &pg.DeadLetterPlace{FailedAt: after.FailedAt, ID: id}, nil
	}
	filter := bulk.DeadLetters.toPG()
	filter.UpTo = pg.DeadLetterPlace{FailedAt: o.SeenAt, ID: o.UpTo}
	if o.UpTo == 0 { // there were none
		return nil, nil, nil
	}
	if found, err = c.FindLetters(ctx, filter, after, size); err != nil || len(found) < size {
		return found, nil, err
	}
	return found, &found[len(found)-1].Place, nil
}

// newOperation converts an operation of the database.
func newOperation(o *pg.Operation) (*Operation, error) {
	bulk, err := bulkOf(o)
	if err != nil {
		return nil, err
	}
	words := ""
	if bulk.Jobs != nil {
		words = bulk.Jobs.String()
	} else {
		words = bulk.DeadLetters.String()
	}
	return &Operation{
		ID: o.ID, Place: Place(o.Place), Action: Action(o.Action), Filter: o.Filter, Words: words, PerSecond: o.PerSecond, State: OperationState(o.State),
		Principal: o.Principal, Reason: o.Reason, Matched: o.Matched, More: o.More, Acted: o.Acted, Skipped: o.Skipped,
		CreatedAt: o.Created.UTC(), StartedAt: utc(o.Started), EndedAt: utc(o.Ended), CarriedAt: utc(o.Carried), Error: o.Error,
	}, nil
}

func utc(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return at.UTC()
}

// bulkOf reads what an operation is to do.
func bulkOf(o *pg.Operation) (*Bulk, error) {
	var change storedChange
	if err := json.Unmarshal(o.Change, &change); err != nil {
		return nil, fmt.Errorf("operation %d: %w", o.ID, err)
	}
	bulk := &Bulk{Action: Action(o.Action), Reschedule: change.Reschedule, Notes: change.Notes, PerSecond: o.PerSecond}
	var filter json.Unmarshaler
	if Place(o.Place) == PlaceDeadLetters {
		bulk.DeadLetters = new(LetterFilter)
		filter = bulk.DeadLetters
	} else {
		bulk.Jobs = new(JobFilter)
		filter = bulk.Jobs
	}
	if err := filter.UnmarshalJSON(o.Filter); err != nil {
		return nil, fmt.Errorf("operation %d: %w", o.ID, err)
	}
	return bulk, nil
}

// ErrExpired is returned for a preview that is too old to be started, and for a token that is none.
var ErrExpired = errors.New("there is no such preview, or it is older than an hour: make a new one")

// Start starts what was previewed, once: to start it again changes nothing. What is to be done is
// done by whoever calls Carry, also in another process.
func (a *Admin) Start(ctx context.Context, token string, options ChangeOptions) (*Operation, error) {
	var o *pg.Operation
	err := a.changeOperation(ctx, "start", options, func(ctx context.Context, c *pg.Changing) (*pg.Operation, bool, error) {
		found, err := c.Operation(ctx, 0, hashOf(token))
		if errors.Is(err, pg.ErrNoOperation) {
			return nil, false, ErrExpired
		}
		if err != nil {
			return nil, false, err
		}
		if who := principal(ctx); found.Principal != who.Name {
			return nil, false, fmt.Errorf("the preview is somebody else's: %w", ErrForbidden)
		}
		if err := a.allow(ctx, Action(found.Action), Target{Kind: KindOperation, ID: strconv.FormatInt(found.ID, 10)}); err != nil {
			return nil, false, err
		}
		o = found
		return a.startAgain(ctx, c, o, options.Reason, pg.OperationPreviewed)
	})
	if err != nil {
		return nil, err
	}
	return a.Operation(ctx, o.ID)
}

// ResumeOperation lets an operation go on that was stopped. Whoever does so answers for the rest of
// it: it may change what this principal may.
func (a *Admin) ResumeOperation(ctx context.Context, id int64, options ChangeOptions) (*Operation, error) {
	err := a.changeOperation(ctx, "resume", options, func(ctx context.Context, c *pg.Changing) (*pg.Operation, bool, error) {
		o, err := a.findOperation(ctx, c, id)
		if err != nil {
			return nil, false, err
		}
		if err := a.allow(ctx, Action(o.Action), Target{Kind: KindOperation, ID: strconv.FormatInt(id, 10)}); err != nil {
			return nil, false, err
		}
		reason := options.Reason
		if reason == "" {
			reason = o.Reason
		}
		return a.startAgain(ctx, c, o, reason, pg.OperationStopped)
	})
	if err != nil {
		return nil, err
	}
	return a.Operation(ctx, id)
}

// StopOperation stops an operation that runs. The step that somebody does at this moment is the last
// one.
func (a *Admin) StopOperation(ctx context.Context, id int64, options ChangeOptions) (*Operation, error) {
	err := a.changeOperation(ctx, "stop", options, func(ctx context.Context, c *pg.Changing) (*pg.Operation, bool, error) {
		o, err := a.findOperation(ctx, c, id)
		if err != nil {
			return nil, false, err
		}
		if err := a.allow(ctx, ActionStop, Target{Kind: KindOperation, ID: strconv.FormatInt(id, 10)}); err != nil {
			return nil, false, err
		}
		state, _, err := c.LockOperation(ctx, id)
		if err != nil || state != pg.OperationRunning {
			return o, false, err
		}
		return o, true, c.EndOperation(ctx, id, pg.OperationStopped, "")
	})
	if err != nil {
		return nil, err
	}
	return a.Operation(ctx, id)
}

// findOperation returns an operation that the principal may read.
func (a *Admin) findOperation(ctx context.Context, c *pg.Changing, id int64) (*pg.Operation, error) {
	if err := a.allow(ctx, ActionRead, Target{Kind: KindOperation, ID: strconv.FormatInt(id, 10)}); err != nil {
		return nil, err
	}
	o, err := c.Operation(ctx, id, "")
	if errors.Is(err, pg.ErrNoOperation) {
		err = ErrNotFound
	}
	return o, err
}

// startAgain starts an operation that is in this state.
func (a *Admin) startAgain(ctx context.Context, c *pg.Changing, o *pg.Operation, reason, from string) (*pg.Operation, bool, error) {
	state, expired, err := c.LockOperation(ctx, o.ID)
	switch {
	case err != nil:
		return nil, false, err
	case from == pg.OperationStopped && state == pg.OperationPreviewed:
		return nil, false, ErrNotFound
	case from == pg.OperationPreviewed && state == from && expired:
		return nil, false, ErrExpired
	case from == pg.OperationStopped && state == pg.OperationDone:
		return nil, false, invalid(fmt.Errorf("operation %d is done", o.ID))
	case from == pg.OperationPreviewed && state != from, state == pg.OperationRunning && a.authorize != nil == o.Restricted:
		return o, false, nil
	}
	who := principal(ctx)
	o.Principal, o.Roles, o.Restricted, o.Reason = who.Name, who.Roles, a.authorize != nil, reason
	return o, true, c.StartOperation(ctx, o)
}

// changeOperation starts or stops an operation, with the record of that.
func (a *Admin) changeOperation(
	ctx context.Context, what string, options ChangeOptions, act func(context.Context, *pg.Changing) (o *pg.Operation, changed bool, err error),
) error {
	if err := options.check(); err != nil {
		return err
	}
	_, err := a.writer.Change(ctx, options.ID, func(ctx context.Context, c *pg.Changing) (*pg.Record, error) {
		o, changed, err := act(ctx, c)
		if err != nil || !changed {
			return nil, err
		}
		action := Action(o.Action)
		if what == "stop" {
			action = ActionStop
		}
		detail, err := json.Marshal(map[string]any{
			"what": what, "place": o.Place, "action": o.Action, "filter": json.RawMessage(o.Filter), "change": json.RawMessage(o.Change),
			"matched": o.Matched, "more": o.More, "up_to_id": o.UpTo,
		})
		return &pg.Record{
			Principal: principal(ctx).Name, Action: string(action), Reason: options.Reason, Kind: string(KindOperation),
			Target: strconv.FormatInt(o.ID, 10), Operation: o.ID, Detail: detail,
		}, err
	})
	if err != nil {
		return fmt.Errorf("%s operation: %w", what, err)
	}
	return nil
}
