package interop_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
)

// What one enqueues, the other finds as it was sent, and both leave the same rows.
func TestB1Enqueue(t *testing.T) {
	point(t)
	t.Parallel()
	t.Run("jobs", func(t *testing.T) {
		t.Parallel()
		inSchemas(t, func(f *fixture) {
			node := startPeer(f)
			testNodeEnqueuesGoWorks(f, node)
			testGoEnqueuesNodeWorks(f, node)
			node.stop()
			node.wantNoComplaint()
			f.wantNothingLeft()
		})
	})
	t.Run("payloads", func(t *testing.T) {
		t.Parallel()
		testPayloads(newFixture(t))
	})
	t.Run("rows", func(t *testing.T) {
		t.Parallel()
		testRows(newFixture(t))
	})
}

func testNodeEnqueuesGoWorks(f *fixture, node *peer) {
	added := node.add(task.Name, full, map[string]any{
		"queueName": "user:7 ü", "jobKey": "letter:7 ü", "priority": -3, "maxAttempts": 7, "runAt": due,
		"flags": []string{"post", "slow"},
	})
	var job backfill.Job
	var args letter
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, a letter) error {
		job, args = backfill.JobInfo(ctx), a
		return nil
	}))
	if diff := cmp.Diff(&backfill.Report{}, f.workOnce(registry, backfill.WithForbiddenFlags("slow"))); diff != "" {
		f.Errorf("report of a worker that forbids a flag of the job (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&backfill.Report{Completed: 1}, f.workOnce(registry, backfill.WithForbiddenFlags("fast"))); diff != "" {
		f.Errorf("report (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(full, args); diff != "" {
		f.Errorf("args (-want +got):\n%s", diff)
	}
	want := backfill.Job{
		ID: added.ID, Task: task.Name, Queue: "user:7 ü", Key: "letter:7 ü", Priority: -3, Attempt: 1, MaxAttempts: 7, RunAt: due,
		Flags: []string{"post", "slow"},
	}
	ignored := cmpopts.IgnoreFields(backfill.Job{}, "Args", "CreatedAt")
	if diff := cmp.Diff(want, job, ignored, cmpopts.SortSlices(strings.Compare)); diff != "" {
		f.Errorf("job (-want +got):\n%s", diff)
	}
}

func testGoEnqueuesNodeWorks(f *fixture, node *peer) {
	enqueued := f.enqueue(full, backfill.Queue("user:7 ü"), backfill.Key("letter:7 ü"), backfill.Priority(-3), backfill.MaxAttempts(7),
		backfill.RunAt(due), backfill.Flags("post", "slow"))
	if said := f.workOnceInNode(node, bodies{task.Name: ""}, map[string]any{"forbiddenFlags": []string{"slow"}}); len(said) > 0 {
		f.Errorf("a Node worker that forbids a flag of the job said %v", said)
	}
	said := f.workOnceInNode(node, bodies{task.Name: ""}, map[string]any{"forbiddenFlags": []string{"fast"}})
	if len(said) != 1 {
		f.Fatalf("Node said %v, want one job", said)
	}
	var args letter
	if err := json.Unmarshal(said[0].Job.Payload, &args); err != nil {
		f.Fatal(err)
	}
	if diff := cmp.Diff(full, args); diff != "" {
		f.Errorf("payload (-want +got):\n%s", diff)
	}
	want := &nodeJob{
		ID: enqueued.ID, Task: task.Name, Queue: "user:7 ü", Key: "letter:7 ü", Priority: -3, Attempts: 1, MaxAttempts: 7, RunAt: due,
		Flags: map[string]bool{"post": true, "slow": true},
	}
	if diff := cmp.Diff(want, said[0].Job, cmpopts.IgnoreFields(nodeJob{}, "Payload")); diff != "" {
		f.Errorf("job (-want +got):\n%s", diff)
	}
}

// workOnce works in Go until nothing is due.
func (f *fixture) workOnce(registry *backfill.Registry, opts ...backfill.RunOption) *backfill.Report {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), hang)
	defer cancel()
	if f.without {
		opts = append(opts, backfill.WithoutDeadLetters())
	}
	report, err := backfill.RunOnce(ctx, registry, append(opts, backfill.WithClient(f.client))...)
	if err != nil {
		f.Fatal(err)
	}
	return report
}

// workOnceInNode works in Node until nothing is due, and returns what the bodies of the tasks say. Node does not wait until the
// outcomes of its jobs are in the database.
func (f *fixture) workOnceInNode(node *peer, tasks bodies, more map[string]any) (said []message) {
	f.Helper()
	from := node.record.len()
	node.do(map[string]any{"request": "workOnce", "tasks": tasks, "options": node.with(more)})
	entries, _, _ := node.record.seen()
	for _, m := range entries[from:] {
		if m.Type == "job" {
			said = append(said, m)
		}
	}
	ctx, cancel := context.WithTimeout(f.Context(), hang)
	defer cancel()
	for look := time.Tick(5 * time.Millisecond); ; {
		if len(f.lines("select id::text from "+f.table("_private_jobs")+" where starts_with(locked_by, 'otpool-')")) == 0 {
			return said
		}
		select {
		case <-look:
		case <-ctx.Done():
			f.Fatal("Node's jobs stay locked")
		}
	}
}

// The payloads of the tests, as they are sent; and as JavaScript writes what it has read, where that is something else.
var payloads = []struct{ text, script string }{
	{text: `{}`},
	{text: `[]`},
	{text: `null`},
	{text: `true`},
	{text: `"text"`},
	{text: `1.50`, script: `1.5`},
	{text: `[1,[2,{}],null]`},
	{text: ` { "spaced" : [ 1 ] } `, script: `{"spaced":[1]}`},
	{text: `{"raw":"Grüße, 世界 🎉 é ` + "\u2028" + ` <b>&\"\\\t"}`},
	{text: `{"escaped":"\u2028 \u00fc \ud83c\udf89 \u003c \/"}`, script: `{"escaped":"` + "\u2028" + ` ü 🎉 < /"}`},
	{text: `{"nul":"\u0000","half":"\ud83c"}`},
	{text: `{"great":9007199254740993}`, script: `{"great":9007199254740992}`},
	{text: `[-123456789012345678901234567890,1E2,1e400,-0]`, script: `[-1.2345678901234568e+29,100,null,0]`},
	{text: `{"twice":1, "twice":2}`, script: `{"twice":2}`},
	{text: `{"b":1,"":2,"1":3}`, script: `{"1":3,"b":1,"":2}`},
}

// testPayloads sends each payload on every way. The database keeps its bytes, and only JavaScript changes them.
func testPayloads(f *fixture) {
	const name = "take"
	texts := make([]string, len(payloads))
	scripts := make([]string, len(payloads))
	requests := make([]backfill.Request, len(payloads))
	for i, p := range payloads {
		texts[i], scripts[i] = p.text, p.script
		if p.script == "" {
			scripts[i] = p.text
		}
		requests[i] = backfill.Request{Task: name, Args: json.RawMessage(p.text)}
	}
	enqueue := func(requests ...backfill.Request) {
		if _, err := f.client.Enqueue(f.Context(), requests...); err != nil {
			f.Fatal(err)
		}
	}
	check := func(way string, want, got []string) {
		f.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			f.Errorf("%s (-want +got):\n%s", way, diff)
		}
	}

	for _, request := range requests {
		enqueue(request)
	}
	check("Go to Go", texts, f.payloadsInGo(name))

	node := startPeer(f)
	enqueue(requests...)
	var got []string
	said := f.workOnceInNode(node, bodies{name: ""}, nil)
	slices.SortFunc(said, func(a, b message) int { return int(a.Job.ID - b.Job.ID) }) // they are due at the same moment
	for _, m := range said {
		got = append(got, string(m.Job.Payload))
	}
	check("Go to Node", scripts, got)

	enqueue(backfill.Request{Task: "send", Args: must(json.Marshal(texts))})
	f.workOnceInNode(node, bodies{"send": `for (const text of payload) {
		await helpers.query("select graphile_worker.add_job('` + name + `', $1::json)", [text]);
	}`}, nil)
	check("Node to Go by SQL", texts, f.payloadsInGo(name))

	for _, p := range payloads {
		node.add(name, json.RawMessage(p.text), nil)
	}
	scripts[slices.Index(scripts, "null")] = "{}" // addJob takes it for a payload that is not given
	check("Node to Go by addJob", scripts, f.payloadsInGo(name))

	testMicroseconds(f, node)
	node.stop()
	node.wantNoComplaint()
	f.wantNothingLeft()
}

// testMicroseconds sends a run_at that is finer than a Date of JavaScript.
func testMicroseconds(f *fixture, node *peer) {
	fine := time.Date(2024, 2, 29, 23, 59, 59, 987_654_000, time.UTC)
	f.enqueue(full, backfill.RunAt(fine))
	said := f.workOnceInNode(node, bodies{task.Name: `
		const sql = "select (extract(epoch from run_at) * 1000000)::bigint as us from graphile_worker._private_jobs";
		const us = (await helpers.query(sql)).rows[0].us;
		await helpers.query("select graphile_worker.add_job('take', run_at => to_timestamp(0) + $1 * interval '1 microsecond')", [us]);
		say({ type: "job", text: us });
	`}, nil)
	if len(said) != 1 {
		f.Fatalf("Node said %v, want one job", said)
	}
	if want := strconv.FormatInt(fine.UnixMicro(), 10); said[0].Text != want {
		f.Errorf("Node read the run_at %s in microseconds, want %s", said[0].Text, want)
	}
	var got time.Time
	take := &backfill.Task[backfill.NoArgs]{Name: "take"}
	f.workOnce(backfill.NewRegistry(backfill.Handle(take, func(ctx context.Context, _ backfill.NoArgs) error {
		got = backfill.JobInfo(ctx).RunAt
		return nil
	})))
	if !got.Equal(fine) {
		f.Errorf("Go got %v of Node, want %v", got, fine)
	}
}

// payloadsInGo works the jobs of a task and returns their payloads in order, as they are stored and as the handler gets them.
func (f *fixture) payloadsInGo(name string) (payloads []string) {
	f.Helper()
	task := &backfill.Task[json.RawMessage]{Name: name}
	registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, args json.RawMessage) error {
		stored := string(backfill.JobInfo(ctx).Args)
		if strings.TrimSpace(stored) != string(args) {
			f.Errorf("the handler got %s of %s", args, stored)
		}
		payloads = append(payloads, stored)
		return nil
	}))
	f.workOnce(registry, backfill.WithConcurrency(1))
	return payloads
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
