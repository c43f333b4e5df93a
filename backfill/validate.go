package backfill

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/backfillhq/go/internal/wire"
)

// The limits of the wire. Lengths of text are in characters.
const (
	maxNameLength      = 128
	maxQueueLength     = 128
	maxKeyLength       = 512
	maxArgsBytes       = 256 << 20 // PostgreSQL's limit of a jsonb value; arrays are merged as jsonb
	defaultMaxAttempts = 25
	maxProblems        = 50 // reported in one error
)

// The range of PostgreSQL's timestamps.
var (
	minRunAt = time.Date(-4713, time.November, 24, 0, 0, 0, 0, time.UTC)
	maxRunAt = time.Date(294277, time.January, 1, 0, 0, 0, 0, time.UTC) // the first one that is too late
)

// Validate reports everything that is wrong with the request: args that could not be encoded, and
// values that the database does not take. Every Enqueuer of this module calls it before it sends
// anything. Call it if you write an Enqueuer of your own. The error is an [ErrInvalidRequest].
func (r Request) Validate() error {
	if problems := r.validate(); len(problems) > 0 {
		return invalid(fmt.Errorf("request of task %s: %w", shortQuote(r.Task), errors.Join(problems...)))
	}
	return nil
}

// newSpecs checks all requests before anything is sent, and converts them for the wire. No other
// code does that.
func newSpecs(requests []Request) ([]wire.Spec, error) {
	specs := make([]wire.Spec, len(requests))
	var problems []error
	count := 0
	for i := range requests {
		found := requests[i].validate()
		count += len(found)
		for _, problem := range found[:min(len(found), maxProblems-len(problems))] {
			problems = append(problems, fmt.Errorf("request %d (task %s): %w", i, shortQuote(requests[i].Task), problem))
		}
		specs[i] = requests[i].spec()
	}
	if count > len(problems) {
		problems = append(problems, fmt.Errorf("and %d more problems", count-len(problems)))
	}
	if len(problems) > 0 {
		return nil, invalid(fmt.Errorf("enqueue: %w", errors.Join(problems...)))
	}
	return specs, nil
}

// spec converts a valid request.
func (r *Request) spec() wire.Spec {
	spec := wire.Spec{
		Task:        r.Task,
		Payload:     r.Args,
		Queue:       r.Queue,
		Key:         r.Key,
		KeyMode:     wire.KeyMode(r.KeyMode),
		Priority:    int16(r.Priority),
		MaxAttempts: int16(cmp.Or(r.MaxAttempts, defaultMaxAttempts)),
		RunAt:       r.RunAt,
		Delay:       r.Delay,
		Flags:       r.Flags,
		Trace:       wire.Trace{Parent: r.Trace.Parent, State: r.Trace.State},
	}
	if len(spec.Payload) == 0 {
		spec.Payload = []byte("{}")
	}
	return spec
}

func (r *Request) validate() []error {
	problems := slices.Clip(r.problems)
	add := func(problem error) {
		if problem != nil {
			problems = append(problems, problem)
		}
	}
	add(checkName("task name", r.Task))
	add(checkText("queue", r.Queue, maxQueueLength))
	add(checkText("key", r.Key, maxKeyLength))
	if problem := r.KeyMode.problem(); problem != nil {
		add(problem)
	} else if r.KeyMode != "" && r.Key == "" {
		add(fmt.Errorf("key mode %s without a key: give the job a key", r.KeyMode))
	}
	add(checkMaxAttempts(r.MaxAttempts))
	add(checkFlags(r.Flags))
	switch {
	case r.Delay < 0:
		add(fmt.Errorf("delay %v is negative: use RunAt for a time in the past", r.Delay))
	case r.Delay > 0 && !r.RunAt.IsZero():
		add(errors.New("both run_at and delay are set: leave one out"))
	}
	add(checkRunAt(r.RunAt)) // the zero time is within the range
	add(checkArgs(r.Args, r.Key != ""))
	add(r.Trace.check())
	return problems
}

func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s is empty: want 1 to %d characters", what, maxNameLength)
	}
	return checkText(what, name, maxNameLength)
}

// checkText checks that PostgreSQL can store a text, and that it is not longer than the limit.
func checkText(what, s string, limit int) error {
	switch {
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %s is not valid UTF-8", what, shortQuote(s))
	case strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%s %s contains a NUL character, which PostgreSQL cannot store", what, shortQuote(s))
	case len(s) > limit && utf8.RuneCountInString(s) > limit:
		return fmt.Errorf("%s has %d characters: at most %d are allowed", what, utf8.RuneCountInString(s), limit)
	}
	return nil
}

func checkMaxAttempts(n int) error {
	if n < 0 || n > math.MaxInt16 {
		return fmt.Errorf("max_attempts is %d: want 1 to %d", n, math.MaxInt16)
	}
	return nil
}

func checkRunAt(t time.Time) error {
	if t.Before(minRunAt) || !t.Before(maxRunAt) {
		return fmt.Errorf("run_at in the year %d: PostgreSQL has times from 4713 BC to 294276", t.UTC().Year())
	}
	return nil
}

func checkFlags(flags []string) error {
	var problems []error
	for i, flag := range flags {
		if flag == "" {
			problems = append(problems, fmt.Errorf("flag %d is empty", i))
		} else if err := checkText("flag", flag, math.MaxInt); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func checkArgs(args json.RawMessage, keyed bool) error {
	switch {
	case len(args) == 0:
		return nil
	case len(args) > maxArgsBytes:
		return fmt.Errorf("args have %d bytes: at most %d (256 MiB) are allowed: store large data elsewhere, and "+
			"enqueue where it is", len(args), maxArgsBytes)
	case !utf8.Valid(args):
		return errors.New("args are not valid UTF-8")
	case !json.Valid(args):
		return errors.New("args are not valid JSON")
	case keyed && bytes.TrimLeft(args, " \t\r\n")[0] == '[':
		return checkMerge(args)
	}
	return nil
}

// shortQuote quotes, for an error, the beginning of a text that may be long or invalid.
func shortQuote(s string) string {
	const limit = 64
	if runes := []rune(s[:min(len(s), 4*limit)]); len(runes) > limit {
		return fmt.Sprintf("%q…", string(runes[:limit]))
	}
	return fmt.Sprintf("%q", s)
}
