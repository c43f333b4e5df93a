package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// Job is a job as it stands in the table, without what the principal may not see.
type Job struct {
	ID          int64    `json:"id"`
	Task        string   `json:"task"` // "": its row is gone
	Queue       string   `json:"queue,omitempty"`
	QueueGone   bool     `json:"queue_gone,omitempty"` // it has a queue, whose row is gone
	Key         string   `json:"key,omitempty"`
	State       JobState `json:"state"`
	Priority    int      `json:"priority"`
	RunAt       Time     `json:"run_at"`
	Attempts    int      `json:"attempts"`
	MaxAttempts int      `json:"max_attempts"`
	Revision    int      `json:"revision"` // how often it was enqueued again under its key
	Flags       []string `json:"flags,omitempty"`
	CreatedAt   Time     `json:"created_at"`
	UpdatedAt   Time     `json:"updated_at"`
	LockedAt    Time     `json:"locked_at,omitzero"`
	LockedBy    string   `json:"locked_by,omitempty"`
	// Worker is the Go worker that has locked it, as its row says. Only Admin.Job has it.
	Worker *Worker `json:"worker,omitempty"`

	LastError string `json:"last_error,omitempty"`
	// ErrorCut says that LastError is only its beginning. In a list it is empty if the payload is over
	// 32,000 bytes, as the payload says what of it is hidden.
	ErrorCut bool `json:"error_cut,omitempty"`

	// Payload is JSON, as it is stored, apart from what is hidden. It is nil if it is too large for
	// where it would stand: over 4,000 bytes in a list, or over 4 MB.
	Payload      json.RawMessage `json:"payload,omitempty"`
	PayloadBytes int64           `json:"payload_bytes"`
	Redacted     bool            `json:"redacted,omitempty"` // some of the payload is hidden
}

// JobPage says which part of a list is wanted. The zero value is the first page.
type JobPage struct {
	_ [0]func() // fields may be added

	// After is JobList.Next of the page before; "": the first page.
	After string
	// Size is how many jobs are wanted, 1 to 1,000. Default: 50.
	Size int
	// Oldest begins with the job that has the smallest id, instead of the greatest. It must be the
	// same for all pages of a list.
	Oldest bool
}

// JobList is a page of jobs.
type JobList struct {
	At   time.Time `json:"at"` // by the database's clock
	Jobs []Job     `json:"jobs"`
	// Next is for JobPage.After; "": this was the last page.
	Next string `json:"next,omitempty"`
	// Partial says that not all jobs were searched for this page, which takes too long: the next page
	// may have more, also if this one has none.
	Partial bool `json:"partial,omitempty"`
	// Searched is how many jobs were searched. It is not told where a principal may see only some.
	Searched int64 `json:"searched,omitempty"`
	// Missing is what could not be read: there may be jobs that are not in the list.
	Missing []Missing `json:"missing,omitempty"`
}

// What a list reads at most. A page of a table of any size takes less than 100 ms, apart from the
// time to connect, while its rows are in memory.
const (
	defaultPage  = 50
	mostPage     = 1000
	mostSearched = 200_000
	searchTime   = 50 * time.Millisecond
	leastChunk   = 1_000
	mostChunk    = 20_000
	quickChunk   = 10 * time.Millisecond

	listPayload   = 4_000     // bytes that a list shows
	listRedaction = 32_000    // bytes that a list redacts; beyond them nothing is known of what is hidden in texts
	showPayload   = 4_000_000 // bytes that Admin.Job shows
	listError     = 500       // characters
)

// Jobs returns a page of the jobs that a filter matches, those with the greatest ids first. It
// searches a bounded number of jobs, and says if there are more to search. A list of jobs that run
// begins with those that Go workers say they run, wherever these are in the table.
func (a *Admin) Jobs(ctx context.Context, filter JobFilter, page JobPage) (*JobList, error) {
	place, err := parseJobPlace(page)
	if page.Size < 0 || page.Size > mostPage {
		err = errors.Join(err, invalid(fmt.Errorf("the size of a page is %d: want 1 to %d", page.Size, mostPage)))
	}
	if err = errors.Join(filter.Check(), err); err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	if page.Size == 0 {
		page.Size = defaultPage
	}
	var list *JobList
	err = a.read(ctx, func(r *reading) error {
		s := &searching{reading: r, admin: a, filter: filter, pg: filter.toPG(), size: page.Size, oldest: page.Oldest}
		list = &s.list
		list.Jobs = []Job{}
		list.At = r.now
		if err := s.search(place); err != nil {
			return err
		}
		list.Missing = r.missing()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return list, nil
}

// Job returns a job, or ErrNotFound.
func (a *Admin) Job(ctx context.Context, id int64) (*Job, error) {
	var job *Job
	err := a.read(ctx, func(r *reading) error {
		if !r.seesJobs() {
			return r.unreadable()
		}
		rows, err := pg.Jobs(r.ctx, r.reader, pg.JobFilter{IDs: []int64{id}}, pg.JobPage{
			Least: math.MinInt64, Most: math.MaxInt64, Size: 1, PayloadLimit: showPayload,
		})
		switch {
		case errors.Is(err, pg.ErrMissing):
			return r.unreadable()
		case err != nil:
			return err
		case len(rows) == 0 || a.allow(ctx, ActionRead, targetOf(&rows[0])) != nil:
			return ErrNotFound
		}
		if err := r.readWorkers(); err != nil {
			return err
		}
		found := a.newJob(ctx, &rows[0], showPayload, math.MaxInt)
		if w := r.worker(found.LockedBy); w != nil {
			worker := newWorker(*w)
			worker.Tasks = a.readable(ctx, worker.Tasks)
			found.Worker = &worker
		}
		job = &found
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("show job %d: %w", id, err)
	}
	return job, nil
}

func targetOf(row *pg.JobRow) Target {
	return Target{Kind: KindJob, ID: strconv.FormatInt(row.ID, 10), Task: row.Task, Queue: row.Queue}
}

// newJob shows a row to the principal.
func (a *Admin) newJob(ctx context.Context, row *pg.JobRow, payloadLimit, errorLimit int) Job {
	shown := a.redactUnread(ctx, targetOf(row))
	if row.Payload != "" {
		shown = a.redact(ctx, targetOf(row), []byte(row.Payload))
	} else if row.LastError != "" { // what of it is hidden, the payload says
		row.LastError, row.ErrorCut = "", true
	}
	j := Job{
		ID: row.ID, Task: row.Task, Queue: row.Queue, QueueGone: row.QueueGone, Key: row.Key, State: JobState(row.State), Priority: int(row.Priority),
		RunAt: timeOf(row.RunAt), Attempts: int(row.Attempts), MaxAttempts: int(row.MaxAttempts), Revision: int(row.Revision), Flags: row.Flags,
		CreatedAt: timeOf(row.CreatedAt), UpdatedAt: timeOf(row.UpdatedAt), LockedAt: timeOf(row.LockedAt), LockedBy: row.LockedBy,
		PayloadBytes: row.PayloadBytes, Redacted: shown.hidden, LastError: shown.text(row.LastError, row.ErrorCut), ErrorCut: row.ErrorCut,
	}
	if first := firstOf(j.LastError, errorLimit); len(first) < len(j.LastError) {
		j.LastError, j.ErrorCut = first, true
	}
	if len(shown.payload) <= payloadLimit {
		j.Payload = shown.payload
	}
	return j
}

// firstOf is the beginning of a text, of so many characters at most.
func firstOf(text string, most int) string {
	for at := range text {
		if most--; most < 0 {
			return text[:at]
		}
	}
	return text
}

// searching is a list under way.
type searching struct {
	*reading

	admin  *Admin
	filter JobFilter
	pg     pg.JobFilter
	size   int
	oldest bool
	list   JobList
}

// jobPlace is where a page begins.
type jobPlace struct {
	begun bool
	said  bool  // it is among the jobs that workers say they run
	from  int64 // behind this id
}

// search fills the page.
func (s *searching) search(place jobPlace) error {
	if !s.seesJobs() {
		return nil
	}
	if err := s.reader.PreferIndexes(s.ctx); err != nil {
		return err
	}
	page := pg.JobPage{Least: math.MinInt64, Most: math.MaxInt64, Oldest: s.oldest, PayloadLimit: listRedaction}
	if s.filter.Locked || slices.Equal(s.filter.States, []JobState{JobRunning}) {
		if err := s.readWorkers(); err != nil {
			return err
		}
		for _, w := range s.workers {
			page.But = append(page.But, w.Running...)
		}
	}
	said := page
	said.But = nil
	switch {
	case place.said:
		said = behind(said, place.from)
	case place.begun:
		page = behind(page, place.from)
	}
	if len(page.But) > 0 && (place.said || !place.begun) {
		if more, err := s.take(s.pg.Narrow(page.But), said, "r"); err != nil || more {
			return unlessMissing(err)
		}
	}
	if s.pg.Points() {
		_, err := s.take(s.pg, page, "")
		return unlessMissing(err)
	}
	return s.scan(page)
}

// behind is the part of a range that is behind an id.
func behind(page pg.JobPage, id int64) pg.JobPage {
	if page.Oldest {
		page.Least = id + 1
	} else {
		page.Most = id - 1
	}
	return page
}

// scan searches a range of ids, in chunks that grow while they are quick.
func (s *searching) scan(page pg.JobPage) error {
	began, searched, chunk := time.Now(), int64(0), leastChunk
	if s.filter.PayloadContains != nil {
		chunk /= 10 // payloads may be large
	}
	for known := len(s.reader.Missing); page.Least <= page.Most; {
		started := time.Now()
		jobs, within, err := pg.JobsWithin(s.ctx, s.reader, page, chunk)
		if jobs == 0 || err != nil {
			return unlessMissing(err)
		}
		more, err := s.take(s.pg, within, "")
		if errors.Is(err, pg.ErrMissing) && chunk >= 10 { // it took too long
			s.reader.Missing, chunk = s.reader.Missing[:known], chunk/10
			continue
		}
		if more || err != nil {
			return unlessMissing(err)
		}
		if s.admin.seesAll(s.ctx) {
			s.list.Searched += jobs
		}
		last := within.Least
		if page.Oldest {
			last = within.Most
		}
		if page = behind(page, last); jobs < int64(chunk) || page.Least > page.Most {
			return nil
		}
		if searched += jobs; searched >= mostSearched || time.Since(began) > searchTime {
			s.list.Partial, s.list.Next = true, s.place("", last)
			return nil
		}
		if time.Since(started) < quickChunk {
			chunk = min(chunk*4, mostChunk)
		}
	}
	return nil
}

// take reads jobs of a range into the list. more: the list is full, and there may be others.
func (s *searching) take(f pg.JobFilter, page pg.JobPage, phase string) (more bool, err error) {
	for began := time.Now(); ; {
		page.Size = s.size - len(s.list.Jobs) + 1
		if !s.admin.seesAll(s.ctx) {
			page.Size = mostPage // some are left out
		}
		rows, err := pg.Jobs(s.ctx, s.reader, f, page)
		if err != nil {
			return false, err
		}
		for i := range rows {
			if len(s.list.Jobs) == s.size {
				s.list.Next = s.place(phase, rows[i].ID+map[bool]int64{true: -1, false: 1}[s.oldest])
				return true, nil
			}
			if s.shows(&rows[i]) {
				s.list.Jobs = append(s.list.Jobs, s.admin.newJob(s.ctx, &rows[i], listPayload, listError))
			}
		}
		if len(rows) < page.Size {
			return false, nil
		}
		last := rows[len(rows)-1].ID
		if page = behind(page, last); page.Least > page.Most {
			return false, nil
		}
		if time.Since(began) > searchTime {
			s.list.Partial, s.list.Next = true, s.place(phase, last)
			return true, nil
		}
	}
}

// shows reports whether the principal may see a job that the filter matches, and that it does: what is
// hidden cannot be searched for.
func (s *searching) shows(row *pg.JobRow) bool {
	target := targetOf(row)
	switch {
	case !s.admin.may(s.ctx, ActionRead, target):
		return false
	case s.filter.PayloadContains != nil && s.admin.redact(s.ctx, target, s.filter.PayloadContains).hidden:
		return false
	case s.filter.ErrorContains != "":
		shown := s.admin.newJob(s.ctx, row, listPayload, math.MaxInt)
		return strings.Contains(shown.LastError, s.filter.ErrorContains)
	}
	return true
}

// unlessMissing makes a fact that could not be read no error: the answer says that it is missing.
func unlessMissing(err error) error {
	if errors.Is(err, pg.ErrMissing) {
		return nil
	}
	return err
}

// place writes where a page ended.
func (s *searching) place(phase string, id int64) string {
	order := "n"
	if s.oldest {
		order = "o"
	}
	return order + phase + strconv.FormatInt(id, 10)
}

// parseJobPlace reads what place wrote.
func parseJobPlace(page JobPage) (place jobPlace, err error) {
	if page.After == "" {
		return place, nil
	}
	place.begun = true
	order := "n"
	if page.Oldest {
		order = "o"
	}
	text, ours := strings.CutPrefix(page.After, order)
	text, place.said = strings.CutPrefix(text, "r")
	place.from, err = strconv.ParseInt(text, 10, 64)
	if !ours || err != nil || place.from == math.MinInt64 || place.from == math.MaxInt64 {
		return place, invalid(fmt.Errorf("the page %s is none of this list: pass what Next of the page before says", quoteShort(page.After)))
	}
	return place, nil
}
