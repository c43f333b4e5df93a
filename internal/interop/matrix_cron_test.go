package interop_test

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/crontab"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// schedule is what all processes run. None of them has the tasks, so the jobs stay.
const schedule = `
* * * * * every
*/2 * * * * even ?queue=even:reports&max=3&priority=-5 {"format": "pdf", size: [0x10, .5], owner: null}
* * * * * made_up ?id=filled&fill=2h&queue=fills {_cron: "is overridden", deep: {er: 'é "quoted"'}}
0 0 29 2 * leap ?jobKey=leap&jobKeyMode=preserve_run_at&max=1
* * * * * latest ?jobKey=the+latest&priority=7
`

// leap is when one of the entries is due.
var leap = time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)

// Three processes have one crontab and clocks that run 60 times as fast: each tick becomes one job
// (contract section 7). Then nobody runs for a while, Node makes up for that, nobody runs again,
// and Go does.
func TestB7Cron(t *testing.T) {
	t.Parallel()
	point(t)
	s := &shift{fixture: newFixture(t), end: leap.Add(-14 * time.Minute)}
	s.run(5, s.startGo, s.startNode, s.startNode)
	s.run(1, s.startNode, s.startGo, s.startGo)
	s.run(1, s.startGo)
	s.wantJobs()
}

// A shift is a time in which processes schedule, and all such times before it.
type shift struct {
	*fixture

	clock  fastClock
	end    time.Time // the last tick so far
	phases []phase
}

// A phase is when a shift did what. What is before a process' start was missed, and is made up for.
type phase struct {
	begin, ready time.Time // before anybody started, and after everybody had
	first, last  time.Time // ticks that were not missed
}

// A scheduler is a process of a shift.
type scheduler struct {
	awaitReady func()
	awaitTick  func(time.Time) // waits until it has tried a tick, or a later one
	stop       func()
}

// run begins a shift ten minutes after the last one, and ends it when everybody has tried some
// ticks of the time when all ran.
func (s *shift) run(minutes int, starts ...func() scheduler) {
	s.Helper()
	p := phase{begin: s.end.Add(10*time.Minute + 30*time.Second)}
	s.clock = fastClock{begin: p.begin, at: time.Now()}
	var all []scheduler
	for _, start := range starts {
		scheduler := start()
		scheduler.awaitReady()
		all = append(all, scheduler)
	}
	p.ready = s.clock.Now()
	for _, scheduler := range all {
		scheduler.awaitTick(p.ready.Truncate(time.Minute).Add(time.Duration(minutes) * time.Minute))
	}
	// Go makes up for what was missed beside the ticks of the other entries.
	const behind = "select extract(epoch from min(k.last_execution) filter (where k.identifier = 'filled'))::bigint < " +
		"extract(epoch from max(k.last_execution))::bigint from "
	dbtest.Until(s.T, func() bool {
		return !dbtest.Get[bool](s.T, s.db.Pool(), behind+s.table("_private_known_crontabs")+" as k")
	})
	for _, scheduler := range all {
		scheduler.stop()
	}
	ticks := "select min(run_at), max(run_at) from " + s.table("jobs") + " where task_identifier = 'every' and run_at > $1"
	if err := s.db.Pool().QueryRow(s.Context(), ticks, s.end).Scan(&p.first, &p.last); err != nil {
		s.Fatal(err)
	}
	p.first, p.last = p.first.UTC(), p.last.UTC()
	if p.first.Before(p.begin) || p.first.After(p.ready.Add(time.Minute)) {
		s.Errorf("the first tick was %v, and processes started between %v and %v", p.first, p.begin, p.ready)
	}
	s.end = p.last
	s.phases = append(s.phases, p)
}

func (s *shift) startNode() scheduler {
	s.Helper()
	clock := fmt.Sprintf(`PEER_CLOCK={"begin":%d,"at":%d,"rate":%d}`, s.clock.begin.UnixMilli(), s.clock.at.UnixMilli(), rate)
	node := startPackage(s.fixture, newest, clock)
	node.work(bodies{"idle": ""}, map[string]any{"crontab": schedule, "pollInterval": 3_600_000})
	return scheduler{
		awaitReady: func() { node.record.await(s.T, "Node to schedule", 0, event("cron:started")) },
		awaitTick: func(tick time.Time) {
			node.record.await(s.T, "Node to come to "+tick.String(), 0, func(m message) bool {
				return event("cron:scheduled")(m) && !m.Tick.Before(tick)
			})
		},
		stop: node.stop,
	}
}

func (s *shift) startGo() scheduler {
	s.Helper()
	store, err := pg.Open(s.Context(), pg.SettingsOf(s.db.Pool(), s.schema))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(store.Close)
	entries, problems := crontab.Parse(schedule)
	if len(problems) > 0 {
		s.Fatal(problems)
	}
	cron := recordedCron{store, newRecord[time.Time]()}
	config := worker.Config{
		Tasks: []string{"idle"}, Concurrency: 1, DrainTimeout: time.Second, CancelTimeout: time.Second,
		Cron: cron, Clock: s.clock, Logger: slog.New(slog.NewTextHandler(s.Output(), nil)),
		Execute: func(_ context.Context, job *wire.Job, _ *worker.Outcome) { s.Errorf("Go works job %d", job.ID) },
		Nudge:   func(int) {},
	}
	for _, entry := range entries {
		config.Crontab = append(config.Crontab, worker.CronEntry{Entry: entry})
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	go func() { cron.ticks.end(worker.New(store, config).Run(ctx)) }()
	return scheduler{
		awaitReady: func() { cron.awaitTick(s.T, time.Time{}) },
		awaitTick:  func(tick time.Time) { cron.awaitTick(s.T, tick) },
		stop: func() {
			cancel()
			if err := cron.ticks.awaitEnd(s.T); err != nil {
				s.Errorf("run: %v", err)
			}
		},
	}
}

// recordedCron records the ticks that a worker has tried, after the zero time, which says that it
// has started.
type recordedCron struct {
	*pg.Store

	ticks *record[time.Time]
}

func (c recordedCron) KnownCrontabs(ctx context.Context, ids []string, start time.Time) (map[string]worker.KnownCrontab, error) {
	known, err := c.Store.KnownCrontabs(ctx, ids, start)
	c.ticks.add(time.Time{})
	return known, err
}

func (c recordedCron) Tick(ctx context.Context, tick time.Time, ids []string, jobs []wire.Spec) (int, error) {
	scheduled, err := c.Store.Tick(ctx, tick, ids, jobs)
	c.ticks.add(tick)
	return scheduled, err
}

func (c recordedCron) awaitTick(t *testing.T, tick time.Time) {
	t.Helper()
	c.ticks.await(t, "Go to come to "+tick.String(), 0, func(tried time.Time) bool { return !tried.Before(tick) })
}

// A cronJob is what the database has of a job.
type cronJob struct {
	Task        string
	RunAt       time.Time
	Payload     map[string]any
	Queue       string
	Priority    int
	MaxAttempts int
	Key         string
	Revision    int
	Flags       string
}

// wantJobs checks that there is one job for each tick and identifier, except that jobs with a key
// replace each other.
func (s *shift) wantJobs() {
	s.Helper()
	got := s.jobs()
	var want []cronJob
	latest := cronJob{Task: "latest", Priority: 7, MaxAttempts: 25, Key: "the latest", Revision: -1}
	uncertain := 0 // ticks of latest that may have been lost, as those of the others below
	lost := 0      // ticks of every that were, and those of latest perhaps not
	for _, p := range s.phases {
		for tick := range minutes(p.first, p.last) {
			due := []cronJob{cronJob{Task: "every", MaxAttempts: 25}.at(tick, false)}
			if tick.Minute()%2 == 0 {
				even := cronJob{Task: "even", Queue: "even:reports", Priority: -5, MaxAttempts: 3}.at(tick, false)
				even.Payload["format"], even.Payload["size"], even.Payload["owner"] = "pdf", []any{16.0, 0.5}, nil
				due = append(due, even)
			}
			if tick.Equal(leap) {
				due = append(due, cronJob{Task: "leap", Key: "leap", MaxAttempts: 1}.at(tick, false))
			}
			for _, job := range due {
				// Who is late with a tick when another starts and is on time with the next one loses it, unless
				// the entry has fill (contract section 7.3): after 60 simulated seconds, on a busy machine.
				if !tick.After(p.ready) && !slices.ContainsFunc(got, job.sameTick) {
					if job.Task == "every" {
						lost++
					}
					continue
				}
				want = append(want, job)
				if job.Task == "every" {
					if !tick.After(p.ready) {
						uncertain++
					}
					latest.Revision++
					latest = latest.at(tick, false)
				}
			}
		}
	}
	for i := range got {
		if got[i].Task == "latest" && latest.Revision-uncertain <= got[i].Revision && got[i].Revision <= latest.Revision+lost {
			got[i].Revision = latest.Revision
		}
	}
	want = append(want, latest)
	for tick := range minutes(s.since(), s.end) {
		filled := cronJob{Task: "made_up", Queue: "fills", MaxAttempts: 25}.at(tick, s.backfilled(tick))
		filled.Payload["deep"] = map[string]any{"er": "é \"quoted\""}
		want = append(want, filled)
	}
	slices.SortFunc(want, func(a, b cronJob) int { return cmp.Or(strings.Compare(a.Task, b.Task), a.RunAt.Compare(b.RunAt)) })
	if diff := gocmp.Diff(want, got); diff != "" {
		s.Errorf("jobs (-want +got):\n%s", diff)
	}
	s.wantKnown(want)
}

func (j cronJob) sameTick(other cronJob) bool {
	return j.Task == other.Task && j.RunAt.Equal(other.RunAt)
}

// at is the job of a tick.
func (j cronJob) at(tick time.Time, backfilled any) cronJob {
	j.RunAt = tick
	j.Payload = map[string]any{"_cron": map[string]any{"ts": tick.Format("2006-01-02T15:04:05.000Z"), "backfilled": backfilled}}
	return j
}

// minutes are those from first to last.
func minutes(first, last time.Time) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		for tick := first; !tick.After(last) && yield(tick); tick = tick.Add(time.Minute) {
		}
	}
}

const either = "true or false"

// backfilled is what a job of an entry with fill says. While processes start, a tick is on time
// for some, and missed by others.
func (s *shift) backfilled(tick time.Time) any {
	for _, p := range s.phases {
		switch {
		case tick.Before(p.begin):
			return true
		case !tick.After(p.ready):
			return either
		case !tick.After(p.last):
			return false
		}
	}
	return nil
}

func (s *shift) jobs() []cronJob {
	s.Helper()
	rows, err := s.db.Pool().Query(s.Context(), `
		select identifier, run_at, payload, coalesce(queue_name, ''), priority, max_attempts, coalesce(key, ''), revision, coalesce(flags::text, '')
		from `+s.table("_private_jobs")+` j join `+s.table("_private_tasks")+` t on t.id = task_id
		left join `+s.table("_private_job_queues")+` q on q.id = job_queue_id order by identifier collate "C", run_at`)
	if err != nil {
		s.Fatal(err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[cronJob])
	if err != nil {
		s.Fatal(err)
	}
	for _, job := range jobs {
		if cron, ok := job.Payload["_cron"].(map[string]any); ok && job.Task == "made_up" && s.backfilled(job.RunAt) == either {
			cron["backfilled"] = either
		}
	}
	return jobs
}

// since is the first tick after the crontab was known.
func (s *shift) since() time.Time {
	s.Helper()
	var known time.Time
	err := s.db.Pool().QueryRow(s.Context(), "select max(known_since) from "+s.table("_private_known_crontabs")).Scan(&known)
	if err != nil {
		s.Fatal(err)
	}
	if p := s.phases[0]; known.Before(p.begin) || known.After(p.ready) {
		s.Errorf("the crontab was known since %v, and processes started between %v and %v", known, p.begin, p.ready)
	}
	return known.UTC().Add(time.Minute - 1).Truncate(time.Minute)
}

// wantKnown checks that what the processes know of each other is the last tick of each identifier.
func (s *shift) wantKnown(jobs []cronJob) {
	s.Helper()
	want := map[string]time.Time{}
	for _, job := range jobs { // in the order of their ticks
		want[strings.Replace(job.Task, "made_up", "filled", 1)] = job.RunAt
	}
	rows, err := s.db.Pool().Query(s.Context(), "select identifier, last_execution from "+s.table("_private_known_crontabs"))
	if err != nil {
		s.Fatal(err)
	}
	got := map[string]time.Time{}
	var identifier string
	var last *time.Time
	if _, err := pgx.ForEachRow(rows, []any{&identifier, &last}, func() error {
		if last != nil {
			got[identifier] = *last
		}
		return nil
	}); err != nil {
		s.Fatal(err)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		s.Errorf("known crontabs (-want +got):\n%s", diff)
	}
}

// rate is how fast the clocks run.
const rate = 60

// A fastClock showed begin when it was at.
type fastClock struct{ begin, at time.Time }

func (c fastClock) Now() time.Time { return c.begin.Add(rate * time.Since(c.at)) }

func (c fastClock) Sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d / rate):
		return true
	case <-ctx.Done():
		return false
	}
}
