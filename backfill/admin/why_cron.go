package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/crontab"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
)

// CronExplanation says how an entry of a crontab stands. All times are the database's.
type CronExplanation struct {
	At         time.Time `json:"at"`
	Schema     string    `json:"schema"`
	Identifier string    `json:"identifier"`
	// Blocker is why no job is enqueued, or what is waited for.
	Blocker Blocker `json:"blocker"`
	// Entries are what live Go workers have under the identifier: one, except while a new version is
	// rolled out. Node workers do not say what they have.
	Entries []CronEntry `json:"entries,omitempty"`

	KnownSince Time      `json:"known_since,omitzero"` // when a worker had it for the first time
	LastTick   Time      `json:"last_tick,omitzero"`   // that was enqueued
	NextTick   Time      `json:"next_tick,omitzero"`   // the first one that was not, also if it is late
	Workers    []Worker  `json:"workers,omitempty"`    // that have it: one of them, or of Node's, enqueues a tick
	Notes      []string  `json:"notes,omitempty"`
	Missing    []Missing `json:"missing,omitempty"`
}

// CronEntry is an entry of a crontab, without its payload.
type CronEntry struct {
	Schedule string   `json:"schedule"`        // five time fields
	Zone     string   `json:"tz,omitempty"`    // of these; empty is UTC
	Fill     string   `json:"fill,omitempty"`  // how far back missed ticks are made up for
	Task     string   `json:"task"`            //
	Queue    string   `json:"queue,omitempty"` //
	Key      string   `json:"key,omitempty"`   //
	Workers  []string `json:"workers"`         // ids of those that have it
}

// The codes of entries of a crontab.
const (
	CronWaits    Code = "cron_waits"     // for its next tick
	CronLate     Code = "cron_late"      // its tick is due, and was not enqueued, although a worker has it
	CronNoWorker Code = "cron_no_worker" // no Go worker that lives has it, so a Node worker does, or none
	CronAhead    Code = "cron_ahead"     // a tick that is to come is recorded already: no earlier one is enqueued
	CronUnknown  Code = "cron_unknown"   // no worker has ever had it
)

// lateAfter is how late a tick may be: workers wake up with the minute, and have statements to do.
const lateAfter = 15 * time.Second

// WhyCron says why an entry of a crontab enqueues no job, or when it does. Like Why it waits for no
// lock, and takes 5 seconds at most once it has a connection.
func (a *Admin) WhyCron(ctx context.Context, identifier string) (*CronExplanation, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout+answerTimeout)
	defer cancel()
	var x *CronExplanation
	err := pg.Read(ctx, a.pool, a.schema, func(r *pg.Reader) (err error) {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		e := &cronExplaining{reading: reading{ctx: ctx, reader: r}, x: &CronExplanation{Schema: a.schema, Identifier: identifier}}
		if err := e.explain(); err != nil {
			return err
		}
		x = e.x
		for _, missing := range r.Missing {
			if m := Missing(missing); !slices.Contains(x.Missing, m) {
				x.Missing = append(x.Missing, m)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	task := ""
	if len(x.Entries) > 0 {
		task = x.Entries[0].Task
	}
	if err := a.allow(ctx, ActionRead, Target{Kind: KindCron, ID: identifier, Task: task}); err != nil {
		return nil, err
	}
	return x, nil
}

// cronExplaining is an explanation under way.
type cronExplaining struct {
	reading

	x         *CronExplanation
	recorded  bool // there is a row
	unread    bool // which could not be read
	described []crontab.Description
	serving   []query.WhyWorkersRow // that live, and have it
	former    *query.WhyWorkersRow  // the last that had it, if none has
}

func (e *cronExplaining) explain() error {
	if err := e.readServer(); err != nil {
		return err
	}
	e.x.At = e.now
	if err := e.readRecord(); err != nil {
		return err
	}
	if err := e.readWorkers(); err != nil {
		return err
	}
	if err := e.readEntries(); err != nil {
		return err
	}
	if skew := e.compareClocks(); skew != "" {
		e.x.Notes = append(e.x.Notes, skew)
	}
	return e.judge()
}

// readRecord reads what workers have recorded of the identifier, in every language.
func (e *cronExplaining) readRecord() error {
	if !e.can(crontabsTable, "the ticks that were recorded") {
		e.unread = true
		return nil
	}
	rows, known, err := fact(&e.reading, "the ticks that were recorded", func(q *query.Queries, ctx context.Context) ([]query.WhyCrontabRow, error) {
		return q.WhyCrontab(ctx, e.x.Identifier)
	})
	e.recorded, e.unread = len(rows) > 0, !known || len(rows) == 0 && e.relations[crontabsTable].Hidden
	if e.unread && known {
		e.miss("the ticks that were recorded", "row level security hides some or all of them from role "+e.server.Role)
	}
	if e.recorded {
		e.x.KnownSince, e.x.LastTick = timeOf(rows[0].KnownSince), timeOf(rows[0].LastExecution)
	}
	return err
}

// readEntries reads what Go workers have under the identifier.
func (e *cronExplaining) readEntries() error {
	if _, there := e.relations[workersTable]; !there || !e.workersKnown {
		return nil
	}
	rows, _, err := fact(&e.reading, "the crontabs of Go workers", func(q *query.Queries, ctx context.Context) ([]query.WhyCrontabEntriesRow, error) {
		return q.WhyCrontabEntries(ctx, e.x.Identifier)
	})
	for _, row := range rows {
		w := e.worker(row.WorkerID)
		if w == nil {
			continue
		}
		if w.DeadAt.Valid || w.StoppingAt.Valid || silence(*w) > deadAfter {
			if e.former == nil {
				e.former = w
			}
			continue
		}
		var d crontab.Description
		if json.Unmarshal([]byte(row.Entry), &d) != nil {
			continue // of a version that writes something else
		}
		e.serving = append(e.serving, *w)
		e.x.Workers = append(e.x.Workers, newWorker(*w))
		e.add(d, w.ID)
	}
	return err
}

// add adds a worker's entry to the others.
func (e *cronExplaining) add(d crontab.Description, worker string) {
	entry := CronEntry{Schedule: d.Schedule, Zone: d.Zone, Task: d.Task, Queue: d.Queue, Key: d.Key}
	if d.Fill > 0 {
		entry.Fill = (time.Duration(min(d.Fill, 1<<32)) * time.Second).String()
	}
	for i := range e.x.Entries {
		same := &e.x.Entries[i]
		if same.Schedule == entry.Schedule && same.Zone == entry.Zone && same.Fill == entry.Fill && same.Task == entry.Task && same.Queue == entry.Queue && same.Key == entry.Key {
			same.Workers = append(same.Workers, worker)
			return
		}
	}
	entry.Workers = []string{worker}
	e.x.Entries, e.described = append(e.x.Entries, entry), append(e.described, d)
}

// next computes the first tick that was not enqueued. From the start of the last worker that has the
// entry on, or with fill, missed ticks are made up for.
func (e *cronExplaining) next() {
	for _, d := range e.described {
		entry, err := d.Entry()
		if err != nil {
			e.miss("when it is due", "its schedule cannot be read here: "+err.Error())
			continue
		}
		started := e.now
		for _, w := range e.serving {
			if w.StartedAt.Valid && w.StartedAt.Time.Before(started) {
				started = w.StartedAt.Time
			}
		}
		since := e.x.LastTick
		if since.IsZero() {
			since = e.x.KnownSince
		}
		if since.IsZero() || since.Infinite != 0 {
			since = Time{Time: started}
		}
		if first, ok := entry.First(since.Time, started); ok {
			if !e.x.LastTick.IsZero() && !first.After(e.x.LastTick.Time) {
				first, ok = entry.Next(e.x.LastTick.Time)
			}
			if next := (Time{Time: first}); ok && (e.x.NextTick.IsZero() || first.Before(e.x.NextTick.Time)) {
				e.x.NextTick = next
			}
		}
	}
}

// judge says what keeps the entry from enqueuing, or what it waits for.
func (e *cronExplaining) judge() error {
	name := "The cron entry " + strconv.Quote(e.x.Identifier)
	b := &e.x.Blocker
	e.next()
	switch {
	case !e.recorded && len(e.x.Entries) == 0:
		return e.unknown(name)
	case !e.x.LastTick.IsZero() && e.x.LastTick.Infinite == 0 && e.x.LastTick.Time.After(e.now.Add(time.Minute)):
		b.Code, b.Until = CronAhead, e.x.LastTick
		b.Text = fmt.Sprintf("%s has a tick recorded that is to come, at %s: a process whose clock was ahead has enqueued it. Until then no tick is enqueued.", name, e.x.LastTick.at(e.now))
		b.Remedies = []Remedy{{"Set the clock of that process. To have ticks before that time again:", fmt.Sprintf(
			"update %s set last_execution = date_trunc('minute', now()) where identifier = %s and last_execution > now();", e.table(crontabsTable), sqlQuote(e.x.Identifier))}}
	case len(e.x.Entries) == 0:
		return e.noWorker(name)
	case e.x.NextTick.IsZero():
		b.Code = CronWaits
		b.Text = fmt.Sprintf("When %s is due next is not known. %s.", lower(name), e.who())
	case e.now.Sub(e.x.NextTick.Time) > lateAfter:
		b.Code, b.Since = CronLate, e.x.NextTick
		b.Text = fmt.Sprintf("%s was due at %s, %s ago, and that tick is not recorded, although %s it. The log of that worker says what fails: "+
			"the enqueue of its job, or the connection.", name, e.x.NextTick.at(e.now), span(e.now.Sub(e.x.NextTick.Time)), e.have())
	default:
		b.Code, b.Until = CronWaits, e.x.NextTick
		b.Text = fmt.Sprintf("%s (%s) is due next at %s, in %s. %s.", name, e.x.Entries[0].Schedule+zone(e.x.Entries[0].Zone), e.x.NextTick.at(e.now),
			span(e.x.NextTick.Time.Sub(e.now)), e.who())
	}
	if len(e.x.Entries) > 0 {
		b.Text += " " + e.last()
	}
	if len(e.x.Entries) > 1 {
		var schedules []string
		for _, entry := range e.x.Entries {
			schedules = append(schedules, fmt.Sprintf("%s for the task %s in %s", entry.Schedule+zone(entry.Zone), strconv.Quote(entry.Task), plural(len(entry.Workers), "worker", "workers")))
		}
		text := "The workers do not agree on it, as while a new version is rolled out: " + strings.Join(schedules, "; ")
		e.x.Notes = append(e.x.Notes, text+". A tick of either is enqueued once.")
	}
	return nil
}

func zone(name string) string {
	if name == "" {
		return " UTC"
	}
	return " " + name
}

// who says who enqueues the next tick.
func (e *cronExplaining) who() string {
	if len(e.serving) == 1 {
		return "It will be enqueued by " + e.place(&e.serving[0])
	}
	return fmt.Sprintf("It will be enqueued by the first of %d workers, of which one is %s", len(e.serving), e.place(&e.serving[0]))
}

func (e *cronExplaining) have() string {
	if len(e.serving) == 1 {
		return e.place(&e.serving[0]) + ", has"
	}
	return fmt.Sprintf("%d workers, %s among them, have", len(e.serving), e.place(&e.serving[0]))
}

// last says when it was enqueued last.
func (e *cronExplaining) last() string {
	switch {
	case e.unread:
		return "When it was enqueued last, this role may not see."
	case e.x.LastTick.IsZero():
		return "It has not been enqueued yet."
	}
	return "The last tick that was enqueued is that of " + e.x.LastTick.at(e.now) + "."
}

// noWorker is for an entry that was recorded and that no Go worker has.
func (e *cronExplaining) noWorker(name string) error {
	b := &e.x.Blocker
	b.Code = CronNoWorker
	b.Text = fmt.Sprintf("%s is in the crontab of no Go worker that lives. %s", name, e.last())
	if !e.workersKnown {
		b.Text = fmt.Sprintf("Whether a Go worker has %s, this role may not see. %s", lower(name), e.last())
	}
	if e.former != nil {
		b.Text += fmt.Sprintf(" The last that had it was %s.", e.place(e.former))
	}
	peers, known, err := fact(&e.reading, "the sessions of Node workers", (*query.Queries).ListenersOfPeers)
	if err != nil {
		return err
	}
	switch {
	case !known || !e.seesSessions():
		b.Text += " Whether Node workers are connected, this role may not see."
	case peers == 0:
		b.Text += " No session listens as a Node worker does, so nobody enqueues it."
	default:
		b.Text += " " + count(peers, "session listens as a Node worker does;", "sessions listen as Node workers do;") + " Node workers do not say what they schedule, nor when."
	}
	b.Remedies = []Remedy{{Text: "If it is to go on, start a worker whose crontab has it. Ticks that were missed are made up for as far as its fill reaches."}}
	return nil
}

// unknown is for an identifier that nobody has recorded.
func (e *cronExplaining) unknown(name string) error {
	b := &e.x.Blocker
	if e.unread || !e.workersKnown {
		b.Code = Unseen
		b.Text = fmt.Sprintf("Whether %s is known, this role may not see.", lower(name))
		return nil
	}
	b.Code = CronUnknown
	b.Text = name + " is in the crontab of no Go worker that lives, and no worker has ever had it, in any language."
	names, known, err := fact(&e.reading, "the identifiers that there are", (*query.Queries).WhyCrontabNames)
	if known && len(names) > 0 {
		b.Text += " Those that there are: " + some(names) + "."
	} else if known {
		b.Text += " None was ever recorded in this schema."
	}
	return err
}
