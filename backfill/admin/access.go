package admin

import (
	"context"
	"errors"
	"fmt"
)

// Principal is who asks for something: a person, or a program.
type Principal struct {
	Name  string
	Roles []string
}

// Action names what a principal wants to do. New ones may be added, so refuse those that are not
// known.
type Action string

// The actions.
const (
	ActionRead       Action = "read"        // see that something is there, and everything of it but payloads
	ActionReadValues Action = "read_values" // see payloads and outputs, except for what is redacted
	ActionEnqueue    Action = "enqueue"     // a job
	ActionRetry      Action = "retry"       // a job that has failed for good
	ActionCancel     Action = "cancel"      // a job, also one that runs
	ActionDelete     Action = "delete"      // a job that waits, or a dead letter
	ActionReschedule Action = "reschedule"  // a job that waits
	ActionEdit       Action = "edit"        // the payload of a job or of a dead letter
	ActionRequeue    Action = "requeue"     // a dead letter
	ActionPause      Action = "pause"       // a task or a queue, and resume it
	ActionTrigger    Action = "trigger"     // a cron entry, out of its turn
	ActionUnlock     Action = "unlock"      // what a dead worker has locked
	ActionFix        Action = "fix"         // what doctor has found
	ActionStop       Action = "stop"        // an operation of many items
)

// Kind is the kind of thing that a principal wants to do something with.
type Kind string

// The kinds.
const (
	KindJob        Kind = "job"
	KindDeadLetter Kind = "dead_letter"
	KindHistory    Kind = "history" // of a job that may be gone
	KindTask       Kind = "task"
	KindQueue      Kind = "queue"
	KindWorker     Kind = "worker"
	KindCron       Kind = "cron"
	KindOperation  Kind = "operation" // that changes many items: who previews, starts or resumes one is asked about with what it does
	KindDatabase   Kind = "database"  // as a whole, such as what doctor finds
)

// Target is what a principal wants to do something with. What does not apply is empty.
type Target struct {
	Kind  Kind
	ID    string // of a job, dead letter or operation in decimal; of a worker or cron entry as it is
	Task  string // the wire name
	Queue string
}

// Authorize decides whether a principal may do something. It is asked for every target of every
// action, by the HTTP API, the page and the command line, so it should be quick. Several goroutines
// may call it.
type Authorize func(ctx context.Context, principal Principal, action Action, target Target) bool

// WithAuthorize sets who may do what. Unless it is set, everybody who can call an Admin may do
// everything: who has the database's password could do it anyway.
func WithAuthorize(authorize Authorize) Option { return func(a *Admin) { a.authorize = authorize } }

// ErrNotFound is returned for what is not there, and for what the principal may not read, which is
// not told apart.
var ErrNotFound = errors.New("there is no such thing, or it may not be seen")

// ErrForbidden is returned for what the principal may see, but not do.
var ErrForbidden = errors.New("not allowed")

type principalKey struct{}

// As returns a context in which everything is asked for by this principal. Records of changes name
// it.
func As(ctx context.Context, principal Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, principal)
}

// principal returns who asks; without a name if nobody said so.
func principal(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// may reports whether the principal of ctx may do something. It is the only place that asks.
func (a *Admin) may(ctx context.Context, action Action, target Target) bool {
	return a.authorize == nil || a.authorize(ctx, principal(ctx), action, target)
}

// seesAll reports whether the principal may read everything, so that nothing has to be left out.
func (a *Admin) seesAll(ctx context.Context) bool {
	return a.authorize == nil || a.byRole && a.may(ctx, ActionRead, Target{})
}

// allow returns an error unless the principal may do it: ErrNotFound if it may not even read the
// target.
func (a *Admin) allow(ctx context.Context, action Action, target Target) error {
	switch {
	case !a.may(ctx, ActionRead, target):
		return ErrNotFound
	case action != ActionRead && !a.may(ctx, action, target):
		return fmt.Errorf("%s %s %s: %w", action, target.Kind, target.ID, ErrForbidden)
	}
	return nil
}
