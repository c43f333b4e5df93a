package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// RequeueDeadLetter enqueues the job of a dead letter anew, as it is stored: a new job with an id of
// its own. Notes replace those of the dead letter; "": they stay. failedAt is when it has failed, as
// it was seen; zero: whenever that was.
func (a *Admin) RequeueDeadLetter(ctx context.Context, id int64, failedAt time.Time, notes string, options ChangeOptions) (*Outcome, error) {
	if notes != "" {
		if err := checkName(notes); err != nil {
			return nil, invalid(named("notes", err))
		}
	}
	return a.changeLetter(ctx, ActionRequeue, id, failedAt, pg.LetterChange{Requeue: true, Notes: notes}, options)
}

// DeleteDeadLetter deletes a dead letter that is not requeued.
func (a *Admin) DeleteDeadLetter(ctx context.Context, id int64, failedAt time.Time, options ChangeOptions) (*Outcome, error) {
	return a.changeLetter(ctx, ActionDelete, id, failedAt, pg.LetterChange{}, options)
}

func (a *Admin) changeLetter(
	ctx context.Context, action Action, id int64, failedAt time.Time, how pg.LetterChange, options ChangeOptions,
) (*Outcome, error) {
	ch, place, err := a.letter(action, id, failedAt, options)
	if err != nil {
		return nil, err
	}
	return ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		return only(c.Letters(ctx, []pg.DeadLetterPlace{place}, how, a.judge(ctx, action, KindDeadLetter)))
	})
}

func (a *Admin) letter(action Action, id int64, failedAt time.Time, options ChangeOptions) (ch *change, place pg.DeadLetterPlace, err error) {
	if id <= 0 {
		return nil, place, invalid(fmt.Errorf("%d is no id of a dead letter", id))
	}
	place.ID = id
	if !failedAt.IsZero() {
		place = pg.NewDeadLetterPlace(failedAt.UTC(), id)
	}
	return &change{admin: a, action: action, target: Target{Kind: KindDeadLetter, ID: strconv.FormatInt(id, 10)}, options: options}, place, nil
}

// LetterEdit says what is changed of a dead letter. A nil field changes nothing, and an empty
// Queue, Key or Notes removes it.
type LetterEdit struct {
	_ [0]func() // fields may be added

	Payload     json.RawMessage `json:"payload,omitzero"` // as EditJob has it
	Priority    *int            `json:"priority,omitzero"`
	MaxAttempts *int            `json:"max_attempts,omitzero"` // 1 to 32767
	Queue       *string         `json:"queue,omitzero"`
	Key         *string         `json:"key,omitzero"`
	Notes       *string         `json:"notes,omitzero"`
}

// The limits of the wire, in characters.
const maxQueueName, maxKey = 128, 512

func (e *LetterEdit) check() error {
	var problems []error
	if e.Payload == nil && e.Priority == nil && e.MaxAttempts == nil && e.Queue == nil && e.Key == nil && e.Notes == nil {
		problems = append(problems, errors.New("nothing to change: set payload, priority, max_attempts, queue, key or notes"))
	}
	if e.Payload != nil {
		problems = append(problems, checkPayload(e.Payload))
	}
	if e.Priority != nil && (*e.Priority < math.MinInt16 || *e.Priority > math.MaxInt16) {
		problems = append(problems, fmt.Errorf("priority is %d: want %d to %d", *e.Priority, math.MinInt16, math.MaxInt16))
	}
	if e.MaxAttempts != nil && (*e.MaxAttempts < 1 || *e.MaxAttempts > math.MaxInt16) {
		problems = append(problems, fmt.Errorf("max_attempts is %d: want 1 to %d", *e.MaxAttempts, math.MaxInt16))
	}
	for _, field := range []struct {
		name  string
		value *string
		limit int
	}{{"queue", e.Queue, maxQueueName}, {"key", e.Key, maxKey}, {"notes", e.Notes, maxFilterText}} {
		if field.value == nil || *field.value == "" {
			continue
		}
		problems = append(problems, named(field.name, checkName(*field.value)))
		if n := len([]rune(*field.value)); n > field.limit {
			problems = append(problems, fmt.Errorf("%s has %d characters: want %d at most", field.name, n, field.limit))
		}
	}
	return invalid(errors.Join(problems...))
}

// EditDeadLetter changes a dead letter before it is requeued. Values that a new payload has no more are
// hidden in its errors and notes. failedAt is when it has failed, as it was seen; zero: whenever that
// was.
func (a *Admin) EditDeadLetter(ctx context.Context, id int64, edit LetterEdit, failedAt time.Time, options ChangeOptions) (*Outcome, error) {
	if err := edit.check(); err != nil {
		return nil, err
	}
	ch, place, err := a.letter(ActionEdit, id, failedAt, options)
	if err != nil {
		return nil, err
	}
	how := pg.DeadLetterEdit{Queue: edit.Queue, Key: edit.Key, Notes: edit.Notes}
	var fields []string
	if edit.Priority != nil {
		how.Priority, fields = new(int16(*edit.Priority)), append(fields, "priority") //nolint:gosec // checked
	}
	if edit.MaxAttempts != nil {
		how.MaxAttempts, fields = new(int16(*edit.MaxAttempts)), append(fields, "max_attempts") //nolint:gosec // checked
	}
	var payload pg.EditPayload
	if edit.Payload != nil {
		payload, fields = a.edit(ctx, KindDeadLetter, edit.Payload), append(fields, "payload")
	}
	for name, value := range map[string]*string{"queue": edit.Queue, "key": edit.Key, "notes": edit.Notes} {
		if value != nil {
			fields = append(fields, name)
		}
	}
	ch.detail = map[string][]string{"fields": slices.Sorted(slices.Values(fields))}
	return ch.run(ctx, func(ctx context.Context, c *pg.Changing) (*pg.Item, error) {
		return c.EditLetter(ctx, place, how, payload, a.judge(ctx, ActionEdit, KindDeadLetter))
	})
}
