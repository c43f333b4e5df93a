package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/backfillhq/go/internal/pg"
)

// JobState says what a job does at the moment.
type JobState string

// The states of a job. A job that has succeeded is deleted, so it has none.
const (
	JobWaiting JobState = "waiting" // its run_at is in the future: it was scheduled, snoozed, or will be retried
	JobDue     JobState = "due"     // a worker can take it; if it has a queue, once the queue is free
	JobRunning JobState = "running" // a worker has it: it has been locked for less than 4 hours
	JobSuspect JobState = "suspect" // it waits for a trial: workers have died that had it
	JobFailed  JobState = "failed"  // for good: it has no attempts left
)

var jobStates = []JobState{JobWaiting, JobDue, JobRunning, JobSuspect, JobFailed}

// JobFilter says which jobs are meant: those that everything in it is true of. A field that is nil
// or zero is not asked for. A list matches what is one of its elements; an empty list, or an empty
// text in one, is an error, and never means all. So is a field that is not known, in JSON.
type JobFilter struct {
	_ [0]func() // fields may be added

	States  []JobState `json:"states,omitzero"`
	IDs     []int64    `json:"ids,omitzero"`
	Tasks   []string   `json:"tasks,omitzero"` // wire names, exactly
	Queues  []string   `json:"queues,omitzero"`
	NoQueue bool       `json:"no_queue,omitzero"` // it has none; not beside Queues
	Keys    []string   `json:"keys,omitzero"`
	Locked  bool       `json:"locked,omitzero"` // by anybody, also if the lock is stale
	// LockedBy are values of locked_by, or ids of Go workers.
	LockedBy []string `json:"locked_by,omitzero"`

	MinPriority *int `json:"min_priority,omitzero"` // and this one
	MaxPriority *int `json:"max_priority,omitzero"` // and this one
	MinAttempts *int `json:"min_attempts,omitzero"` // that were made, and this number
	MaxAttempts *int `json:"max_attempts,omitzero"` // that were made, and this number

	RunAtFrom     time.Time `json:"run_at_from,omitzero"` // then or later
	RunAtBefore   time.Time `json:"run_at_before,omitzero"`
	CreatedFrom   time.Time `json:"created_from,omitzero"` // then or later
	CreatedBefore time.Time `json:"created_before,omitzero"`

	// ErrorContains is a text that is in the first 20,000 characters of the last error, and that is
	// not hidden there. Of jobs whose payloads have over 32,000 bytes, what is hidden is not known in
	// time, so they do not match.
	ErrorContains string `json:"error_contains,omitzero"`
	// PayloadContains is JSON that is contained in the payload, as jsonb's @> has it. What jsonb cannot
	// hold, such as \u0000, contains nothing. It matches only jobs whose payloads the principal may
	// see, and that have none of its fields hidden.
	PayloadContains json.RawMessage `json:"payload_contains,omitzero"`

	// UpToID leaves out jobs with a greater id: what has come since.
	UpToID int64 `json:"up_to_id,omitzero"`
}

// UnmarshalJSON refuses fields that are not known, fields that are given twice, and fields that are
// empty: each could be a mistake that selects more than was meant.
func (f *JobFilter) UnmarshalJSON(data []byte) error {
	type plain JobFilter // without this method
	var read plain
	if err := decodeFilter(data, &read); err != nil {
		return err
	}
	*f = JobFilter(read)
	return nil
}

// decodeFilter reads a filter strictly; its errors are ErrInvalid.
func decodeFilter(data []byte, into any) error {
	err := checkFields(data)
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(into)
	}
	if err != nil {
		return invalid(fmt.Errorf("the filter: %w", err))
	}
	return nil
}

// checkFields refuses an object that has a field twice, an empty one, or one whose name is not
// written in small letters, which the decoder would take for the name that is.
func checkFields(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return errors.Join(errors.New("want an object"), err)
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		switch {
		case seen[name]:
			return fmt.Errorf("the field %s is there twice", quoteShort(name))
		case name != strings.ToLower(name):
			return fmt.Errorf("the field %s is not known", quoteShort(name))
		case string(value) == "null" || string(value) == `""`:
			return fmt.Errorf("the field %s is empty: leave it out for any", quoteShort(name))
		}
		seen[name] = true
	}
	_, err := decoder.Token()
	return err
}

// The longest texts of a filter, in bytes.
const (
	maxFilterText    = 10_000
	maxFilterPayload = 100_000
	maxFilterList    = 10_000 // elements
)

// Check reports everything that is wrong with a filter; its errors are ErrInvalid.
func (f *JobFilter) Check() error {
	problems := []error{
		checkList("states", f.States, func(s JobState) error {
			if !slices.Contains(jobStates, s) {
				return fmt.Errorf("%s is no state: want one of %v", quoteShort(string(s)), jobStates)
			}
			return nil
		}),
		checkList("ids", f.IDs, checkID),
		checkList("tasks", f.Tasks, checkName), checkList("queues", f.Queues, checkName), checkList("keys", f.Keys, checkName),
		checkList("locked_by", f.LockedBy, checkName),
		checkRange("priority", f.MinPriority, f.MaxPriority), checkRange("attempts", f.MinAttempts, f.MaxAttempts),
		checkTimes("run_at", f.RunAtFrom, f.RunAtBefore), checkTimes("created", f.CreatedFrom, f.CreatedBefore),
	}
	if f.NoQueue && f.Queues != nil {
		problems = append(problems, errors.New("no_queue and queues: nothing can match both"))
	}
	if f.ErrorContains != "" {
		problems = append(problems, named("error_contains", checkName(f.ErrorContains)))
	}
	if f.PayloadContains != nil {
		problems = append(problems, named("payload_contains", checkPayloadFilter(f.PayloadContains)))
	}
	if f.UpToID < 0 {
		problems = append(problems, errors.New("up_to_id: want 1 or more"))
	}
	return invalid(errors.Join(problems...))
}

// IsEmpty reports whether the filter asks for nothing in particular: it means all jobs, also if it
// has UpToID.
func (f *JobFilter) IsEmpty() bool {
	return f.States == nil && f.IDs == nil && f.Tasks == nil && f.Queues == nil && !f.NoQueue && f.Keys == nil && !f.Locked && f.LockedBy == nil &&
		f.MinPriority == nil && f.MaxPriority == nil && f.MinAttempts == nil && f.MaxAttempts == nil &&
		f.RunAtFrom.IsZero() && f.RunAtBefore.IsZero() && f.CreatedFrom.IsZero() && f.CreatedBefore.IsZero() &&
		f.ErrorContains == "" && f.PayloadContains == nil
}

// ErrInvalid is the kind of error for a request that can never be answered as it is.
var ErrInvalid = errors.New("invalid request")

// invalid makes a problem an ErrInvalid.
func invalid(problem error) error {
	if problem == nil {
		return nil
	}
	return invalidError{problem}
}

type invalidError struct{ error }

func (e invalidError) Is(target error) bool { return target == ErrInvalid }
func (e invalidError) Unwrap() error        { return e.error }

func named(field string, problem error) error {
	if problem == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, problem)
}

// checkList reports what is wrong with a list of a filter.
func checkList[T any](field string, list []T, check func(T) error) error {
	switch {
	case list == nil:
		return nil
	case len(list) == 0:
		return fmt.Errorf("%s is an empty list: leave it out for any", field)
	case len(list) > maxFilterList:
		return fmt.Errorf("%s has %d elements: want %d at most", field, len(list), maxFilterList)
	}
	for _, element := range list {
		if err := check(element); err != nil {
			return named(field, err)
		}
	}
	return nil
}

func checkID(id int64) error {
	if id <= 0 {
		return fmt.Errorf("%d is no id: want 1 to %d", id, math.MaxInt64)
	}
	return nil
}

// checkName reports what is wrong with a text that is compared.
func checkName(text string) error {
	switch {
	case text == "":
		return errors.New("a text is empty")
	case len(text) > maxFilterText:
		return fmt.Errorf("a text has %d bytes: want %d at most", len(text), maxFilterText)
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return fmt.Errorf("%s is no text that PostgreSQL can have: want UTF-8 without NUL", quoteShort(text))
	}
	return nil
}

// checkRange reports what is wrong with the ends of a range of smallints.
func checkRange(field string, least, most *int) error {
	for _, end := range []*int{least, most} {
		if end != nil && (*end < math.MinInt16 || *end > math.MaxInt16) {
			return fmt.Errorf("%s: %d is none: want %d to %d", field, *end, math.MinInt16, math.MaxInt16)
		}
	}
	if least != nil && most != nil && *least > *most {
		return fmt.Errorf("%s: nothing can be from %d to %d", field, *least, *most)
	}
	return nil
}

// The first and the last year of PostgreSQL's calendar that are whole.
const firstYear, lastYear = -4711, 294_275

// checkTimes reports what is wrong with the ends of a span of time.
func checkTimes(field string, from, before time.Time) error {
	for _, at := range []time.Time{from, before} {
		if year := at.UTC().Year(); year < firstYear || year > lastYear {
			return fmt.Errorf("%s: a time is in the year %d: PostgreSQL has times from 4713 BC to 294276", field, year)
		}
	}
	if !from.IsZero() && !before.IsZero() && !from.Before(before) {
		return fmt.Errorf("%s: nothing can be from %s and before %s", field, from.Format(time.RFC3339), before.Format(time.RFC3339))
	}
	return nil
}

// checkPayloadFilter reports what is wrong with JSON that payloads are to contain.
func checkPayloadFilter(data []byte) error {
	if len(data) > maxFilterPayload {
		return fmt.Errorf("it has %d bytes: want %d at most", len(data), maxFilterPayload)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return fmt.Errorf("it is no JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("it is more than one value of JSON")
	}
	switch value := value.(type) {
	case map[string]any:
		if len(value) == 0 {
			return errors.New("{} is contained in each object: leave it out for any")
		}
	case []any:
		if len(value) == 0 {
			return errors.New("[] is contained in each array: leave it out for any")
		}
	}
	if !pg.FitsJSONB(data) {
		return errors.New("it has a character, or a number, that jsonb cannot hold")
	}
	return nil
}

// toPG converts a filter that was checked.
func (f *JobFilter) toPG() pg.JobFilter {
	var states []string
	for _, state := range f.States {
		states = append(states, string(state))
	}
	return pg.JobFilter{
		States: states, IDs: f.IDs, Tasks: f.Tasks, Queues: f.Queues, NoQueue: f.NoQueue, Keys: f.Keys, Locked: f.Locked, LockedBy: f.LockedBy,
		MinPriority: f.MinPriority, MaxPriority: f.MaxPriority, MinAttempts: f.MinAttempts, MaxAttempts: f.MaxAttempts,
		RunAtFrom: f.RunAtFrom, RunAtBefore: f.RunAtBefore, CreatedFrom: f.CreatedFrom, CreatedBefore: f.CreatedBefore,
		ErrorContains: f.ErrorContains, PayloadContains: f.PayloadContains, UpToID: f.UpToID,
	}
}

// quoteShort quotes the beginning of a text that is wrong.
func quoteShort(text string) string {
	const most = 60
	if len(text) > most {
		return strconv.Quote(text[:most]) + "…"
	}
	return strconv.Quote(text)
}

// String says in words what a filter asks for.
func (f *JobFilter) String() string {
	var parts []string
	add := func(name string, values []string) {
		const most = 10
		if len(values) > most {
			values = append(values[:most:most], strconv.Itoa(len(values)-most)+" more")
		}
		if len(values) > 0 {
			parts = append(parts, name+" "+strings.Join(values, " or "))
		}
	}
	var states, ids []string
	for _, state := range f.States {
		states = append(states, string(state))
	}
	for _, id := range f.IDs {
		ids = append(ids, strconv.FormatInt(id, 10))
	}
	add("state", states)
	add("id", ids)
	add("task", quoted(f.Tasks))
	add("queue", quoted(f.Queues))
	if f.NoQueue {
		parts = append(parts, "no queue")
	}
	add("key", quoted(f.Keys))
	if f.Locked {
		parts = append(parts, "locked")
	}
	add("locked by", quoted(f.LockedBy))
	for _, r := range []struct {
		name        string
		least, most *int
	}{{"priority", f.MinPriority, f.MaxPriority}, {"attempts", f.MinAttempts, f.MaxAttempts}} {
		switch {
		case r.least != nil && r.most != nil:
			parts = append(parts, fmt.Sprintf("%s from %d to %d", r.name, *r.least, *r.most))
		case r.least != nil:
			parts = append(parts, fmt.Sprintf("%s from %d", r.name, *r.least))
		case r.most != nil:
			parts = append(parts, fmt.Sprintf("%s up to %d", r.name, *r.most))
		}
	}
	for _, bound := range []struct {
		name string
		at   time.Time
	}{
		{"run_at from", f.RunAtFrom},
		{"run_at before", f.RunAtBefore},
		{"created from", f.CreatedFrom},
		{"created before", f.CreatedBefore},
	} {
		if !bound.at.IsZero() {
			parts = append(parts, bound.name+" "+bound.at.UTC().Format(time.RFC3339))
		}
	}
	if f.ErrorContains != "" {
		parts = append(parts, "error with "+strconv.Quote(f.ErrorContains))
	}
	if f.PayloadContains != nil {
		parts = append(parts, "payload with "+head(string(f.PayloadContains)))
	}
	if len(parts) == 0 {
		parts = []string{"all"}
	}
	if f.UpToID != 0 {
		parts = append(parts, "id up to "+strconv.FormatInt(f.UpToID, 10))
	}
	return strings.Join(parts, ", and ")
}
