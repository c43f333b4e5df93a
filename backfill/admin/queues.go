package admin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/backfillhq/go/internal/pg/query"
)

// Queue is a queue: a name under which jobs run one after the other.
type Queue struct {
	Name     string `json:"name"`
	LockedAt Time   `json:"locked_at,omitzero"`
	LockedBy string `json:"locked_by,omitempty"`
	Stale    bool   `json:"stale,omitempty"` // the lock is older than 4 hours, and counts no more
	// HolderJob is the job that holds the queue, if its worker says so; 0: none does.
	HolderJob int64  `json:"holder_job,omitempty"`
	Pause     *Pause `json:"pause,omitempty"`
	Jobs      *Count `json:"jobs,omitempty"` // that wait, due or not; nil: they were not counted
	id        int32  // of its row
}

// QueueFilter says which queues are meant. The zero value is all.
type QueueFilter struct {
	_ [0]func() // fields may be added

	Names  []string `json:"names,omitzero"`  // exactly; an empty list is an error
	Locked bool     `json:"locked,omitzero"` // only those that are
}

// NamePage says which part of a list by name is wanted. The zero value is the first page.
type NamePage struct {
	_ [0]func() // fields may be added

	After string // Next of the page before; "": the first page
	Size  int    // 1 to 1,000. Default: 50
}

// check returns the name behind which the page begins, and its size.
func (p NamePage) check() (after pgtype.Text, size int, err error) {
	if p.Size < 0 || p.Size > mostPage {
		return after, 0, invalid(fmt.Errorf("the size of a page is %d: want 1 to %d", p.Size, mostPage))
	}
	if size = p.Size; size == 0 {
		size = defaultPage
	}
	if p.After == "" {
		return after, size, nil
	}
	name, err := base64.RawURLEncoding.DecodeString(p.After)
	if err != nil || checkName(string(name)) != nil {
		return after, 0, invalid(fmt.Errorf("the page %s is none of this list: pass what Next of the page before says", quoteShort(p.After)))
	}
	return pgtype.Text{String: string(name), Valid: true}, size, nil
}

// nameNext writes where a page by name ends.
func nameNext(last string) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

// QueueList is a page of queues, by name.
type QueueList struct {
	At     time.Time `json:"at"` // by the database's clock
	Queues []Queue   `json:"queues"`
	Next   string    `json:"next,omitempty"` // for NamePage.After; "": this was the last page
	// Missing is what could not be read, such as how many jobs wait where the index for queues is
	// not there.
	Missing []Missing `json:"missing,omitempty"`
}

// Queues returns a page of queues. How many jobs wait in each is counted for as long as that is quick.
func (a *Admin) Queues(ctx context.Context, filter QueueFilter, page NamePage) (*QueueList, error) {
	after, size, err := page.check()
	if err = errors.Join(err, invalid(checkList("names", filter.Names, checkName))); err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	var list *QueueList
	err = a.read(ctx, func(r *reading) error {
		list = &QueueList{At: r.now, Queues: []Queue{}}
		defer func() { list.Missing = r.missing() }()
		if !r.can(queuesTable, "the queues") {
			return nil
		}
		if err := r.reader.PreferIndexes(r.ctx); err != nil {
			return err
		}
		for full := false; !full; {
			rows, known, err := fact(r, "the queues", func(q *query.Queries, ctx context.Context) ([]query.QueuesPageRow, error) {
				return q.QueuesPage(ctx, query.QueuesPageParams{After: after, Names: filter.Names, Locked: filter.Locked, Size: int32(size + 1)}) //nolint:gosec // bounded
			})
			if err != nil || !known {
				return err
			}
			for _, row := range rows {
				if full = len(list.Queues) == size; full {
					list.Next = nameNext(after.String)
					break
				}
				after = pgtype.Text{String: row.QueueName, Valid: true}
				if a.may(ctx, ActionRead, Target{Kind: KindQueue, Queue: row.QueueName}) {
					list.Queues = append(list.Queues, Queue{
						Name: row.QueueName, LockedAt: timeOf(row.LockedAt), LockedBy: row.LockedBy, Stale: row.Stale, id: row.ID,
					})
				}
			}
			full = full || len(rows) <= size
		}
		return a.describeQueues(r, list.Queues)
	})
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	return list, nil
}

// Queue returns a queue, or ErrNotFound.
func (a *Admin) Queue(ctx context.Context, name string) (*Queue, error) {
	list, err := a.Queues(ctx, QueueFilter{Names: []string{name}}, NamePage{})
	switch {
	case errors.Is(err, ErrInvalid):
		return nil, err
	case err != nil:
		return nil, err
	case len(list.Queues) == 1:
		return &list.Queues[0], nil
	case len(list.Missing) > 0:
		return nil, fmt.Errorf("show the queue: %w", &UnreadableError{list.Missing[0]})
	}
	return nil, fmt.Errorf("show the queue: %w", ErrNotFound)
}

// describeQueues says of queues whether they are paused, who holds them, and how many jobs wait.
func (a *Admin) describeQueues(r *reading, queues []Queue) error {
	pauses, err := r.readPauses()
	if err != nil {
		return err
	}
	if err := r.readWorkers(); err != nil {
		return err
	}
	seesJobs := len(queues) > 0 && r.seesJobs()
	indexed := false
	if seesJobs {
		indexed, _, err = fact(r, "the index for queues", func(q *query.Queries, ctx context.Context) (bool, error) {
			return q.QueueIndexed(ctx, r.reader.Schema())
		})
		if err != nil {
			return err
		}
		if !indexed {
			r.miss("how many jobs wait in each queue", "the schema has no index for queues: run backfill migrate")
		}
	}
	began := time.Now()
	for i := range queues {
		q := &queues[i]
		if at := slices.IndexFunc(pauses, func(p query.PausesRow) bool { return p.QueueName == q.Name }); at >= 0 {
			pause := newPause(pauses[at])
			q.Pause = &pause
		}
		if w := r.worker(q.LockedBy); w != nil && seesJobs && len(w.Running) > 0 {
			holders, _, err := fact(r, "the job that holds the queue", func(s *query.Queries, ctx context.Context) ([]query.WhyRunningInQueueRow, error) {
				return s.WhyRunningInQueue(ctx, query.WhyRunningInQueueParams{Ids: w.Running, QueueID: q.id})
			})
			if err != nil {
				return err
			}
			if len(holders) > 0 {
				q.HolderJob = holders[0].ID
			}
		}
		if !indexed || time.Since(began) > searchTime {
			continue
		}
		jobs, known, err := fact(r, "how many jobs wait in each queue", func(s *query.Queries, ctx context.Context) (int64, error) {
			return s.QueueJobs(ctx, q.id)
		})
		if err != nil {
			return err
		}
		if known {
			count := upTo(jobs)
			q.Jobs = &count
		}
	}
	return nil
}

// Pause is a task or a queue whose jobs wait: one of the names is set.
type Pause struct {
	Task   string `json:"task,omitempty"`
	Queue  string `json:"queue,omitempty"`
	At     Time   `json:"at"`
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	Until  Time   `json:"until,omitzero"` // when it ends by itself; zero: never
}

func newPause(row query.PausesRow) Pause {
	return Pause{Task: row.Task, Queue: row.QueueName, At: timeOf(row.PausedAt), By: row.PausedBy, Reason: row.Reason, Until: timeOf(row.EndsAt)}
}

// PauseList is what is paused: tasks by name, then queues by name.
type PauseList struct {
	At      time.Time `json:"at"` // by the database's clock
	Pauses  []Pause   `json:"pauses"`
	Missing []Missing `json:"missing,omitempty"`
}

// Pauses returns what is paused.
func (a *Admin) Pauses(ctx context.Context) (*PauseList, error) {
	var list *PauseList
	err := a.read(ctx, func(r *reading) error {
		list = &PauseList{At: r.now, Pauses: []Pause{}}
		rows, err := r.readPauses()
		for _, row := range rows {
			target := Target{Kind: KindTask, Task: row.Task}
			if row.QueueName != "" {
				target = Target{Kind: KindQueue, Queue: row.QueueName}
			}
			if a.may(ctx, ActionRead, target) {
				list.Pauses = append(list.Pauses, newPause(row))
			}
		}
		list.Missing = r.missing()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list pauses: %w", err)
	}
	return list, nil
}
