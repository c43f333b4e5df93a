package interop_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// Two Node workers and two Go workers share one queue. They are ready before it has jobs, and hear of each.
func TestB2Queues(t *testing.T) {
	point(t)
	t.Parallel()
	localQueue := map[string]any{"size": 10}
	for name, options := range map[string][]map[string]any{
		"one at a time": {nil, nil},
		"local queues":  {{"localQueue": localQueue}, {"localQueue": localQueue, "completeJobBatchDelay": 0, "failJobBatchDelay": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrew(t)
			for _, of := range options {
				c.join(startPeer(c.fixture), of)
				c.joinInGo()
			}
			c.awaitReady()
			const jobs = 200
			for i := range jobs / 2 {
				c.enqueue(letter{Text: "serial", Number: int64(2 * i)}, backfill.Queue("serial"))
				c.peers[0].add(task.Name, letter{Text: "serial", Number: int64(2*i + 1)}, map[string]any{"queueName": "serial"})
			}
			c.awaitNoJobs()
			c.stop()
			c.wantExecutions(jobs)
			c.wantNothingLeft()
		})
	}
}

// A crew is workers of both kinds on one database. Each execution of a job is a row there: which job of which queue, who ran it,
// and when it began and ended, by a sequence, which no clock disturbs. The text of a job is its queue, its number its place there.
type crew struct {
	*fixture

	peers   []*peer
	workers []*goWorker
}

const executionsTable = `
	create sequence steps;
	create table executions (queue text, number int, worker text, began bigint default nextval('steps'), ended bigint);
	create index on executions (queue, number)`

const (
	beginExecution = "insert into executions (queue, number, worker) values ($1, $2, $3)"
	endExecution   = "update executions set ended = nextval('steps') where (queue, number, worker) = ($1, $2, $3) and ended is null"
)

func newCrew(t *testing.T) *crew {
	t.Helper()
	f := newFixture(t)
	f.execute(executionsTable)
	return &crew{fixture: f}
}

// newFixture is a test in the default schema.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	db := pgtest.New(t)
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	client, err := backfill.NewClient(t.Context(), db.Pool(), backfill.WithLogger(logger))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &fixture{T: t, db: db, schema: "graphile_worker", client: client}
}

// join makes a Node process work. Nobody tells Node that a queue is free, so it asks often.
func (c *crew) join(p *peer, options map[string]any) {
	c.Helper()
	me := fmt.Sprint("node ", len(c.peers)+1)
	execute := fmt.Sprintf(`
		const execution = [payload.text, payload.number, %q];
		await helpers.query(%q, execution);
		await sleep(2);
		await helpers.query(%q, execution);`, me, beginExecution, endExecution)
	preset := map[string]any{"concurrentJobs": 2, "maxPoolSize": 6, "pollInterval": 20}
	maps.Copy(preset, options)
	p.work(bodies{task.Name: execute}, map[string]any{"preset": map[string]any{"worker": preset}})
	c.peers = append(c.peers, p)
}

// A goWorker is a worker in this process.
type goWorker struct {
	events *record[backfill.Event]
	cancel context.CancelFunc
}

func (c *crew) joinInGo() {
	c.Helper()
	me := fmt.Sprint("go ", len(c.workers)+1)
	pool := c.db.Pool()
	execute := func(ctx context.Context, l letter) error {
		if _, err := pool.Exec(ctx, beginExecution, l.Text, l.Number, me); err != nil {
			return err
		}
		<-time.After(2 * time.Millisecond)
		_, err := pool.Exec(ctx, endExecution, l.Text, l.Number, me)
		return err
	}
	events := newRecord[backfill.Event]()
	worker, err := c.client.NewWorker(backfill.NewRegistry(backfill.Handle(task, execute)),
		backfill.WithConcurrency(3), backfill.WithObserver(events.add))
	if err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.Cleanup(cancel)
	go func() { events.end(worker.Run(ctx)) }()
	c.workers = append(c.workers, &goWorker{events, cancel})
}

// awaitReady waits until every worker has looked for jobs.
func (c *crew) awaitReady() {
	c.Helper()
	for _, p := range c.peers {
		p.record.await(c.T, "Node to look for jobs", 0, func(m message) bool {
			return event("worker:getJob:empty")(m) || event("localQueue:getJobs:complete")(m)
		})
	}
	for _, w := range c.workers {
		w.events.await(c.T, "Go to look for jobs", 0, ofKind(backfill.EventClaimed))
		w.events.await(c.T, "Go to listen", 0, ofKind(backfill.EventListening))
	}
}

// awaitNoJobs waits until nothing is left, for as long as jobs come to their end.
func (c *crew) awaitNoJobs() {
	c.Helper()
	timeout, count := time.NewTimer(hang), ""
	defer timeout.Stop()
	for look := time.Tick(20 * time.Millisecond); count != "0"; {
		select {
		case <-look:
		case <-timeout.C:
			c.Fatalf("jobs are left: %s", c.lines("select to_json(j)::text from "+c.table("jobs")+" j limit 20"))
		}
		if left := c.lines("select count(*)::text from " + c.table("_private_jobs"))[0]; left != count {
			count = left
			timeout.Reset(hang)
		}
	}
}

// stop waits until every worker has stopped.
func (c *crew) stop() {
	c.Helper()
	for _, w := range c.workers {
		w.cancel()
	}
	for _, p := range c.peers {
		p.stop()
	}
	for _, w := range c.workers {
		if err := w.events.awaitEnd(c.T); err != nil {
			c.Errorf("run: %v", err)
		}
	}
}

// wantExecutions checks that each job ran once, in its place in its queue and alone there, and that both sides took part.
func (c *crew) wantExecutions(jobs int) {
	c.Helper()
	if ran := len(c.lines("select distinct queue || number from executions where ended is not null")); ran != jobs {
		c.Errorf("%d jobs ran to their end, want %d", ran, jobs)
	}
	const wrong = `
		select format('%s by %s: %s of %s [%s, %s], after %s by %s', wrong, worker, number, queue, began, ended, previous, predecessor)
		from (
			select *, lag(number) over w as previous, lag(worker) over w as predecessor,
				max(ended) over (w rows unbounded preceding exclude current row) as free
			from executions window w as (partition by queue order by began)
		) e, unnest(array[
			case when ended is null then 'no end' when began < free then 'overlap' end,
			case when number = previous then 'twice' when number < previous then 'too late' end
		]) wrong where wrong is not null limit 20`
	if lines := c.lines(wrong); len(lines) > 0 {
		c.Errorf("executions:\n%s", strings.Join(lines, "\n"))
	}
	shares := c.lines("select worker || ': ' || count(*) from executions group by worker order by worker")
	c.Logf("jobs of each: %s", shares)
	if all := fmt.Sprint(shares); !strings.Contains(all, "go") || !strings.Contains(all, "node") {
		c.Errorf("only one side worked: %s", all)
	}
}
