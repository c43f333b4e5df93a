package crontab

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Description is an entry as the row of a worker has it, from which others learn when it is due, and
// what its job gets.
type Description struct {
	Identifier string `json:"id"`
	Schedule   string `json:"schedule"`     // the five time fields
	Zone       string `json:"tz,omitempty"` // of the time fields; UTC unless set
	Fill       int64  `json:"fill_s,omitempty"`

	Task        string          `json:"task"`
	Queue       string          `json:"queue,omitempty"`
	Key         string          `json:"key,omitempty"`
	KeyMode     string          `json:"key_mode,omitempty"`
	Priority    *int16          `json:"priority,omitempty"`
	MaxAttempts int16           `json:"max_attempts,omitempty"`
	Flags       []string        `json:"flags,omitempty"`
	Payload     json.RawMessage `json:"payload,omitempty"`
}

// Describe describes the entry. An entry has no flags of its own.
func (e *Entry) Describe(flags []string) Description {
	d := Description{
		Identifier: e.Identifier, Schedule: e.Schedule(), Fill: int64(e.Fill / time.Second), Task: e.Task, Queue: e.Queue, Key: e.Key,
		KeyMode: e.KeyMode, Priority: e.Priority, MaxAttempts: e.MaxAttempts, Flags: flags, Payload: e.Payload,
	}
	if e.Zone != nil {
		d.Zone = e.Zone.String()
	}
	return d
}

// Entry returns the entry that was described. What it was described by may know time zones that this
// process does not.
func (d Description) Entry() (*Entry, error) {
	e, problems := ParseSchedule(d.Schedule, d.Task, Position{1, 1})
	if len(problems) > 0 {
		return nil, problems[0]
	}
	if d.Zone != "" {
		zone, err := time.LoadLocation(d.Zone)
		if err != nil {
			return nil, fmt.Errorf("time zone: %w", err)
		}
		e.Zone = zone
	}
	e.Identifier, e.Fill = d.Identifier, time.Duration(min(max(d.Fill, 0), math.MaxInt64/int64(time.Second)))*time.Second
	e.MaxAttempts, e.Queue, e.Key, e.KeyMode, e.Priority, e.Payload = d.MaxAttempts, d.Queue, d.Key, d.KeyMode, d.Priority, d.Payload
	return e, nil
}

// Schedule writes the five time fields, as a crontab has them.
func (e *Entry) Schedule() string {
	sets := [...]Set{e.Minutes, e.Hours, e.Dates, e.Months, e.Weekdays}
	words := make([]string, len(sets))
	for i, f := range fields {
		high := f.max
		if f.max == 7 { // Sunday is 0 in a set
			high = 6
		}
		words[i] = sets[i].field(f.min, high)
	}
	return strings.Join(words, " ")
}

// field writes a set of numbers from low to high.
func (s Set) field(low, high int) string {
	if s == between(low, high, 1) {
		return "*"
	}
	for step := 2; step <= high-low && high != 6; step++ { // */n of weekdays also has 7
		if s == between(low, high, step) {
			return "*/" + strconv.Itoa(step)
		}
	}
	var parts []string
	for n := low; n <= high; n++ {
		if !s.Has(n) {
			continue
		}
		end := n
		for s.Has(end + 1) {
			end++
		}
		if end-n < 2 {
			end = n
		}
		part := strconv.Itoa(n)
		if end > n {
			part += "-" + strconv.Itoa(end)
		}
		parts, n = append(parts, part), end
	}
	return strings.Join(parts, ",")
}
