package backfillotel_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// sooner is by how much the times of the rules are divided. Those of workers are what they are: they
// are declared dead after 15 to 30 seconds, whatever the rules say.
const sooner = 10

// fault is a fleet in which something goes wrong, and is mended.
type fault struct {
	name  string
	fires []string // alerts that have to fire, and to resolve
	// others may fire beside them: they are true as well.
	others []string
	stage  func(s *stage)
}

// stage is the fleet of one fault.
type stage struct {
	*testing.T

	prometheus *prometheusServer
	fault      fault
	db         *pgtest.Database
	client     *backfill.Client
	addrs      []string // of processes
	hang       string   // a file: jobs that hang go on once it is gone
}

// One Prometheus watches a fleet for each fault, which are all staged at once: each alert fires in its
// fault, resolves when it is over, and is silent in the others (X153).
func TestAlertsFireInTheirFaults(t *testing.T) { //nolint:tparallel // what follows the group of faults needs its end
	t.Parallel()
	needs.That(t, needs.All(), "time for faults that take two minutes, which BACKFILL_TEST_ALL=1 gives")
	faults := []fault{
		{name: "clean", stage: (*stage).clean},
		{name: "stuck", stage: (*stage).stuck, fires: []string{"BackfillJobsStand"}},
		{name: "deaf", stage: (*stage).deaf, fires: []string{"BackfillHandlersStuck"}, others: []string{"BackfillJobsStand"}},
		{name: "nobody", stage: (*stage).nobody, fires: []string{"BackfillNoWorker", "BackfillJobsStand", "BackfillWorkersGone"}, others: []string{"BackfillRescues"}},
		{name: "letters", stage: (*stage).letters, fires: []string{"BackfillDeadLetters"}},
		{name: "killed", stage: (*stage).killed, fires: []string{"BackfillRescues"}},
		{
			name: "cut", stage: (*stage).cut, fires: []string{"BackfillDatabaseErrors", "BackfillHeartbeatLate", "BackfillObserverBlind"},
			others: []string{"BackfillRescues", "BackfillNoWorker"},
		},
		{name: "gone", stage: (*stage).gone, fires: []string{"BackfillObserverGone", "BackfillWorkersGone"}},
	}
	jobs := map[string][]string{}
	for _, f := range faults {
		jobs[f.name] = []string{"127.0.0.1:" + dbtest.FreePort(t), "127.0.0.1:" + dbtest.FreePort(t), "127.0.0.1:" + dbtest.FreePort(t)}
	}
	p := startPrometheus(t, sooner, jobs)
	tested := map[string]bool{}
	t.Run("faults", func(t *testing.T) {
		for _, f := range faults {
			for _, name := range f.fires {
				tested[name] = true
			}
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				s := &stage{
					T: t, prometheus: &prometheusServer{t, p.url}, fault: f, db: db, client: newClient(t, db), addrs: jobs[f.name],
					hang: filepath.Join(t.TempDir(), "hang"),
				}
				if err := os.WriteFile(s.hang, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				f.stage(s)
				allowed := slices.Concat(f.fires, s.fault.others)
				for _, name := range s.prometheus.everFired(f.name) {
					if !slices.ContainsFunc(allowed, func(a string) bool { return strings.Contains(name, ":"+a+"]") }) {
						t.Errorf("%s has fired", name)
					}
				}
			})
		}
	})
	for name := range alerts(t) {
		if !tested[name] {
			t.Errorf("no fault is staged for %s", name)
		}
	}
}

// args are those of stagedTasks.
type stagedArgs struct {
	Fail, Deaf bool
	Hang       string
	More       int
}

func (s *stage) enqueue(n int, task string, args stagedArgs, change ...func(*backfill.Request)) {
	s.Helper()
	request := backfill.Request{Task: task, Args: asJSON(s.T, args)}
	for _, c := range change {
		c(&request)
	}
	enqueue(s.T, s.client, slices.Repeat([]backfill.Request{request}, n)...)
}

func old(r *backfill.Request) { r.RunAt = time.Now().Add(-time.Hour) }

func (s *stage) worker(i int) *process { s.Helper(); return s.workerAt(i, s.db.URL) }

// workerAt starts a worker, and waits until it works and has been scraped. One that cannot register
// ends, and gives metrics before.
func (s *stage) workerAt(i int, databaseURL string) *process {
	s.Helper()
	p := startProcess(s.T, "worker", databaseURL, s.addrs[i])
	dbtest.UntilWithin(s.T, time.Minute, func() bool {
		return dbtest.Get[bool](s.T, s.db.Pool(), "select exists (select from graphile_worker.backfill_workers where pid = $1 and beats > 0 and dead_at is null)", p.cmd.Process.Pid)
	})
	s.scraped(s.addrs[i], "backfill_worker_running")
	return p
}

func (s *stage) observer(i int) *process {
	s.Helper()
	p := startProcess(s.T, "observer", s.db.URL, s.addrs[i])
	s.scraped(s.addrs[i], "backfill_observer_up")
	return p
}

// scraped waits until a process gives a metric.
func (s *stage) scraped(addr, metric string) {
	s.Helper()
	dbtest.UntilWithin(s.T, time.Minute, func() bool {
		values, err := s.prometheus.query(metric + `{instance="` + addr + `"}`)
		return err == nil && len(values) > 0
	})
}

// fire waits until the alerts of the fault fire, all at once or one after the other.
func (s *stage) fire() {
	s.Helper()
	seen := map[string]bool{}
	for _, name := range s.fault.fires {
		dbtest.UntilWithin(s.T, 2*time.Minute, func() bool {
			for _, firing := range s.prometheus.firing(s.fault.name) {
				seen[firing] = true
			}
			return seen[name]
		})
	}
}

// resolve waits until no alert fires.
func (s *stage) resolve() {
	s.Helper()
	dbtest.UntilWithin(s.T, 3*time.Minute, func() bool { return len(s.prometheus.firing(s.fault.name)) == 0 })
}

func (s *stage) goOn() { _ = os.Remove(s.hang) }

// drained waits until there are no jobs.
func (s *stage) drained() {
	s.Helper()
	dbtest.UntilWithin(s.T, time.Minute, func() bool {
		return dbtest.Get[int](s.T, s.db.Pool(), "select count(*)::int from graphile_worker._private_jobs") == 0
	})
}

// clean works, drains a backlog of old jobs, is deployed, and has no worker for as long as a restart
// takes.
func (s *stage) clean() {
	one, two := s.worker(0), s.worker(1)
	until := time.Now().Add(45 * time.Second)
	s.enqueue(20_000, "work", stagedArgs{}, old)
	s.drained()
	one.stop()
	one = s.worker(0)
	two.stop()
	two = s.worker(1)
	s.checkQueries()
	one.stop()
	two.stop()
	down := time.Now()
	timer := time.NewTimer(30 * time.Second / sooner)
	<-timer.C
	s.worker(0)
	if took := time.Since(down); took > 2*time.Minute/sooner { // this machine is busy: that was no restart of 30 s
		s.Logf("the restart took %v", took)
		s.fault.others = append(s.fault.others, "BackfillNoWorker")
	}
	s.worker(1)
	for time.Now().Before(until) {
		s.enqueue(10, "work", stagedArgs{})
		s.drained()
		timer.Reset(500 * time.Millisecond)
		<-timer.C
	}
}

// checkQueries checks that every metric that rules and dashboard name is there, that every query
// has an answer, and that the sums are the same for two workers as for one (X149, X151).
func (s *stage) checkQueries() {
	s.enqueue(3, "later", stagedArgs{}, func(r *backfill.Request) { r.Delay = time.Hour })
	s.enqueue(1, "work", stagedArgs{Fail: true}) // so that there is a dead letter
	s.enqueue(1, "work", stagedArgs{More: 5})
	expressions := panels(s.T, s.fault.name)
	for _, rule := range alerts(s.T) {
		expressions = append(expressions, rule.expr)
	}
	dbtest.UntilWithin(s.T, time.Minute, func() bool {
		values, err := s.prometheus.query(`sum(max by (messaging_destination_name) (backfill_queue_scheduled{job="clean"}))`)
		letters, lettersErr := s.prometheus.query(`backfill_dead_letter_count{job="clean"}`)
		return err == nil && lettersErr == nil && only(values) == 3 && len(letters) == 2
	})
	checked := map[string]bool{}
	for _, expr := range expressions {
		if _, err := s.prometheus.query(expr); err != nil {
			s.Error(err)
		}
		for _, name := range metricNames(expr) {
			if !checked[name] {
				checked[name] = true
				s.has(name + `{job="clean"}`)
			}
		}
	}
	if len(checked) < 20 {
		s.Errorf("only %d metrics are named", len(checked))
	}
	for _, expr := range panels(s.T, s.fault.name) {
		if !strings.Contains(expr, `!="completed"`) {
			s.has(expr)
		}
	}
	dbtest.Run(s.T, s.db.Pool(), "delete from graphile_worker._private_jobs")
	dbtest.Run(s.T, s.db.Pool(), "delete from graphile_worker.backfill_dlq")
}

// has waits until a query has an answer: a scrape may have come too late.
func (s *stage) has(expr string) {
	s.Helper()
	var values map[string]float64
	var err error
	for range 300 {
		if values, err = s.prometheus.query(expr); err == nil && len(values) > 0 {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	s.Errorf("no process has %s: %v", expr, err)
}

func only(values map[string]float64) float64 {
	for _, n := range values {
		return n
	}
	return -1
}

// stuck has live processes whose slots are all taken by handlers that wait.
func (s *stage) stuck() {
	s.worker(0)
	s.enqueue(9, "work", stagedArgs{Hang: s.hang})
	s.fire()
	s.goOn()
	s.resolve()
}

// deaf has handlers that ignore that their time is over.
func (s *stage) deaf() {
	s.worker(0)
	s.enqueue(2, "limited", stagedArgs{Hang: s.hang, Deaf: true})
	s.fire()
	s.goOn()
	s.resolve()
}

// nobody has five old jobs and a worker that has died.
func (s *stage) nobody() {
	s.observer(2)
	s.worker(0).kill()
	s.enqueue(5, "work", stagedArgs{}, old)
	s.fire()
	s.worker(0)
	s.resolve()
}

func (s *stage) letters() {
	s.worker(0)
	s.enqueue(15, "work", stagedArgs{Fail: true})
	s.fire()
	s.resolve()
}

// killed has a worker that dies with jobs, and another one.
func (s *stage) killed() {
	first := s.worker(0)
	s.enqueue(3, "work", stagedArgs{Hang: s.hang})
	dbtest.Until(s.T, func() bool {
		return dbtest.Get[int](s.T, s.db.Pool(), "select count(*)::int from graphile_worker._private_jobs where locked_at is not null") == 3
	})
	s.worker(1)
	first.kill()
	dbtest.UntilWithin(s.T, time.Minute, func() bool { // the other one has them
		return dbtest.Get[bool](s.T, s.db.Pool(), `select coalesce(bool_and(not j.locked_by like w.id || '%'), true)
			from graphile_worker._private_jobs as j, graphile_worker.backfill_workers as w where w.dead_at is not null`) &&
			dbtest.Get[bool](s.T, s.db.Pool(), "select exists (select from graphile_worker.backfill_workers where dead_at is not null)")
	})
	s.goOn()
	s.fire()
	s.resolve()
}

// cut has a process that cannot reach the database any more.
func (s *stage) cut() {
	through := newLink(s.T, s.db.URL)
	s.workerAt(0, through.URL)
	through.cut()
	s.fire()
	through.mend()
	s.resolve()
}

// gone has no process any more, though all is well.
func (s *stage) gone() {
	s.worker(0).stop()
	s.fire()
	s.worker(0)
	s.resolve()
}
