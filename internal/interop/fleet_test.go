package interop_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/backfillhq/go/backfill"
)

// Two Node workers and two Go workers share 2,000 jobs of 200 queues, which both sides enqueued in no order. The order in each
// queue is that of (priority, run_at).
func TestMixedFleet(t *testing.T) {
	t.Parallel()
	const queues, perQueue = 200, 10
	c := newCrew(t)
	first, second := startPeer(c.fixture), startPeer(c.fixture)
	c.enqueueShuffled(first, queues, perQueue)
	c.join(first, nil)
	c.join(second, map[string]any{"localQueue": map[string]any{"size": 10}, "completeJobBatchDelay": 0, "failJobBatchDelay": 0})
	c.joinInGo()
	c.joinInGo()
	c.awaitNoJobs()
	c.stop()
	c.wantExecutions(queues * perQueue)
	c.wantNothingLeft()
}

// enqueueShuffled enqueues jobs whose number is their place in their queue: half of them in Go and half in Node.
func (c *crew) enqueueShuffled(p *peer, queues, perQueue int) {
	c.Helper()
	seed := rand.Uint64()
	c.Logf("seed %d", seed)
	var inGo []backfill.Request
	var inNode []map[string]any
	for i, n := range rand.New(rand.NewPCG(seed, 0)).Perm(queues * perQueue) {
		args := letter{Text: fmt.Sprint("queue ", n%queues), Number: int64(n / queues)}
		// The later half has the lower priority, and is due earlier.
		priority := 2 * int(args.Number) / perQueue
		runAt := due.Add(time.Duration(args.Number)*time.Millisecond - time.Duration(priority)*time.Hour)
		if i%2 == 0 {
			inGo = append(inGo, task.Request(args, backfill.Queue(args.Text), backfill.Priority(priority), backfill.RunAt(runAt)))
			continue
		}
		inNode = append(inNode, map[string]any{
			"identifier": task.Name, "payload": args, "queueName": args.Text, "priority": priority, "runAt": runAt,
		})
	}
	if _, err := c.client.Enqueue(c.Context(), inGo...); err != nil {
		c.Fatal(err)
	}
	p.do(map[string]any{"request": "addJobs", "specs": inNode, "options": p.options})
}
