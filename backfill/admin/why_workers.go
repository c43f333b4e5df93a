package admin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
)

// checkWorkers says whether anybody takes the job.
func (e *explaining) checkWorkers() error {
	j := e.job
	if j.TaskGone || j.Attempts >= j.MaxAttempts {
		return nil // it does not matter
	}
	serving, alive := e.serving()
	if len(serving) > 0 {
		return e.checkSlots(serving)
	}
	peers, known, err := fact(&e.reading, "the sessions of Node workers", (*query.Queries).ListenersOfPeers)
	if err != nil {
		return err
	}
	known = known && e.seesSessions()
	b := Blocker{Code: NotServed}
	task := strconv.Quote(j.Task)
	node := "Whether Node workers are connected, this role may not see."
	if known {
		node = count(peers, "session listens as a Node worker does.", "sessions listen as Node workers do.")
	}
	if peers > 0 {
		node += " Node workers do not say which tasks they take."
	}
	switch {
	case !e.workersKnown:
		b.Code = Unseen
		b.Text = fmt.Sprintf("Whether a worker takes %s is not known: this role may not see the Go workers. %s", lower(e.subject()), node)
	case len(alive) == 0 && known && peers == 0:
		b.Code = NoWorker
		b.Text = e.subject() + " waits for a worker: none is connected, neither a Go worker nor, as far as can be seen, a Node worker."
	case len(alive) == 0:
		b.Code = PeersUnknown
		b.Text = fmt.Sprintf("%s waits for a worker that takes %s. No Go worker lives. %s", e.subject(), task, node)
	default:
		b.Text = fmt.Sprintf("%s waits for a worker that knows the task %s: of %s none does. %s", e.subject(), task, plural(len(alive), "Go worker that lives", "Go workers that live"), node)
	}
	for _, w := range alive {
		b.Workers = append(b.Workers, newWorker(w))
	}
	if len(alive) > 0 {
		b.Text += " Alive is " + e.place(&alive[0])
		if len(alive) > 1 {
			b.Text += fmt.Sprintf(", and %d more", len(alive)-1)
		}
		b.Text += fmt.Sprintf("; it serves %s.", some(alive[0].Tasks))
	}
	for _, w := range e.workers {
		if !slices.Contains(w.Tasks, j.Task) {
			continue
		}
		switch {
		case w.DeadAt.Valid:
			b.Text += fmt.Sprintf(" The last that did was %s, which ended at %s.", e.place(&w), timeOf(w.DeadAt).at(e.now))
		case w.StoppingAt.Valid:
			b.Text += fmt.Sprintf(" %s does, and is stopping %s.", upper(e.place(&w)), timeOf(w.StoppingAt).since(e.now))
		default:
			b.Text += fmt.Sprintf(" The last that did was %s, %s.", e.place(&w), e.life(&w))
		}
		break
	}
	if _, there := e.relations[workersTable]; !there {
		b.Text += " There is no table of Go workers in this schema."
	}
	b.Remedies = []Remedy{{Text: "Start a worker whose code has the task " + task + "."}}
	e.block(b)
	return nil
}

// checkSlots is for a job that workers serve that live.
func (e *explaining) checkSlots(serving []query.WhyWorkersRow) error {
	free := 0
	var busy []string
	b := Blocker{Code: SlotsBusy}
	for i, w := range serving {
		b.Workers = append(b.Workers, newWorker(w))
		doing := fmt.Sprintf("; %s runs %d of %d", e.place(&w), len(w.Running), w.Slots)
		switch {
		case w.EmptyingAt.Valid:
			doing = "; " + e.place(&w) + " takes no jobs until it has tried suspects"
		case w.Slots == 0: // an older version does not say
			free, doing = free+1, "; "+e.place(&w)+" does not say how many it has"
		default:
			free += max(int(w.Slots)-len(w.Running), 0)
		}
		if i < 5 {
			busy = append(busy, doing)
		}
	}
	if len(e.blockers) == 0 {
		rivals, pausedQueues, err := e.readRivals(serving)
		if err != nil {
			return err
		}
		ahead, known, err := fact(&e.reading, "the jobs before it", func(q *query.Queries, ctx context.Context) (int64, error) {
			return q.WhyAhead(ctx, query.WhyAheadParams{Priority: e.job.Priority, RunAt: e.job.RunAt, ID: e.id, Tasks: rivals, PausedQueues: pausedQueues})
		})
		if err != nil {
			return err
		}
		if known && ahead > 0 {
			return e.explainLine(ahead, b.Workers)
		}
	}
	switch {
	case free == 0:
		b.Text = fmt.Sprintf("%s waits for a slot: of %s none is free%s.", e.subject(), plural(len(serving), "worker that serves its task", "workers that serve its task"), strings.Join(busy, ""))
		b.Remedies = []Remedy{{Text: "Raise their concurrency, or start more workers."}}
		if id := firstRunning(serving); id != 0 {
			b.Remedies = append(b.Remedies, Remedy{"To see what one of their jobs does:", e.backfill(fmt.Sprint("why ", id))})
		}
		e.block(b)
	case len(e.blockers) == 0:
		b.Code = Next
		b.Text = fmt.Sprintf("%s is due, and nothing that can be seen is in its way: %s serves it.", e.subject(), e.place(&serving[0]))
		if err := e.noteWriters(&b); err != nil {
			return err
		}
		e.block(b)
	}
	return nil
}

func firstRunning(workers []query.WhyWorkersRow) int64 {
	for _, w := range workers {
		if len(w.Running) > 0 {
			return w.Running[0]
		}
	}
	return 0
}

// counted is how many jobs before a job are counted.
const counted = 10_000

// explainLine is for a job that has others before it.
func (e *explaining) explainLine(ahead int64, workers []Worker) error {
	rate, err := e.readRate()
	if err != nil {
		return err
	}
	b := Blocker{Code: Behind, Ahead: &ahead, Rate: rate, Workers: workers}
	number := strconv.FormatInt(ahead, 10)
	if ahead > counted {
		number = "more than " + strconv.Itoa(counted)
	}
	noun := "jobs are"
	if ahead == 1 {
		noun = "job is"
	}
	b.Text = fmt.Sprintf("%s is due, and %s due %s before it, of a better priority number or an earlier run_at.", e.subject(), number, noun)
	if rate > 0 {
		left := time.Duration(float64(ahead) / rate * float64(time.Second))
		b.Until = Time{Time: e.now.Add(left)}
		b.Text += fmt.Sprintf(" %.1f jobs end in a second now, so its turn comes in about %s, at %s", rate, span(left), clock(b.Until.Time, e.now))
		if ahead > counted {
			b.Text += " or later"
		}
		b.Text += "."
	} else {
		b.Text += fmt.Sprintf(" No job was seen to end in %s, so when its turn comes cannot be told.", span(ratePatience))
	}
	slots, running := 0, 0
	for _, w := range workers {
		slots, running = slots+w.Slots, running+w.Running
	}
	b.Text += fmt.Sprintf(" %s its task, with %d of %d slots in use.", plural(len(workers), "worker serves", "workers serve"), running, slots)
	b.Remedies = []Remedy{{Text: "Raise the concurrency of workers, or start more of them; or give the job a priority number below theirs, by reschedule_jobs."}}
	e.block(b)
	return nil
}

// readRivals returns the tasks whose jobs may be taken before those of this one, and the queues that
// are paused.
func (e *explaining) readRivals(serving []query.WhyWorkersRow) (tasks, pausedQueues []string, err error) {
	var names []query.PausedNamesRow
	if e.relations["backfill_pauses"].Readable && e.relations["backfill_queue_pauses"].Readable {
		if names, _, err = fact(&e.reading, "pauses", (*query.Queries).PausedNames); err != nil {
			return nil, nil, err
		}
	}
	pausedQueues = []string{}
	for _, w := range serving {
		tasks = append(tasks, w.Tasks...)
	}
	for _, p := range names {
		if p.What == "queue" {
			pausedQueues = append(pausedQueues, p.Name)
		} else {
			tasks = slices.DeleteFunc(tasks, func(task string) bool { return task == p.Name })
		}
	}
	return tasks, pausedQueues, nil
}

// noteWriters notes the sessions that have changed jobs in a transaction that is open: a lock that
// was taken in a savepoint is in no table of locks under the number that the row has.
func (e *explaining) noteWriters(b *Blocker) error {
	sessions, err := e.readWriters("RowExclusiveLock", "RowShareLock")
	if len(sessions) == 0 {
		b.Text += " It is taken within seconds."
	}
	for _, s := range sessions {
		b.Sessions = append(b.Sessions, s)
		b.Text += " But " + e.session(s) + " has changed or locked a job. If that is this one, it cannot be taken before that transaction ends."
	}
	return err
}
