package interop_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/backfillhq/go/backfill"
)

// A letter is the payload of the tests.
type letter struct {
	Text   string    `json:"text"`
	Number int64     `json:"number"`
	Lines  []string  `json:"lines"`
	Sender *struct{} `json:"sender"`
}

var (
	task = &backfill.Task[letter]{Name: "send_letter"}

	full = letter{
		Text:   "Grüße, 世界 🎉 \u2028 <b> & \"quoted\" \\ \t\n",
		Number: 1<<53 - 1, // the largest that JavaScript takes
		Lines:  []string{"", "é", "e\u0301"},
	}
	due = time.Date(2024, 2, 29, 23, 59, 59, 987_000_000, time.UTC) // JavaScript's clock has milliseconds
)

// What our migrations install is for Node what it would have installed itself.
func TestNodeStartsOnOurSchema(t *testing.T) {
	t.Parallel()
	inSchemas(t, func(f *fixture) {
		before := f.schemaState()
		node := startPeer(f)
		node.work(bodies{task.Name: ""}, nil)
		added := node.add(task.Name, full, nil)
		worked, _ := node.record.await(f.T, "the job", 0, is("job"))
		if worked.Job.ID != added.ID {
			f.Errorf("Node worked job %d, and had added %d", worked.Job.ID, added.ID)
		}
		node.record.await(f.T, "a line of Node's log", 0, func(m message) bool { return m.Type == "log" && m.Level == "info" })
		node.stop()
		node.wantNoComplaint()
		f.wantNothingLeft()
		if diff := cmp.Diff(before, f.schemaState()); diff != "" {
			f.Errorf("Node changed the schema (-before +after):\n%s", diff)
		}
	})
}

func TestNodeEnqueuesGoWorks(t *testing.T) {
	t.Parallel()
	inSchemas(t, func(f *fixture) {
		node := startPeer(f)
		added := node.add(task.Name, full, map[string]any{
			"queueName": "user:7 ü", "jobKey": "letter:7 ü", "priority": -3, "maxAttempts": 7, "runAt": due, "flags": []string{"post", "slow"},
		})
		var job backfill.Job
		var args letter
		registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, a letter) error {
			job, args = backfill.JobInfo(ctx), a
			return nil
		}))
		ctx, cancel := context.WithTimeout(f.Context(), hang)
		defer cancel()
		report, err := backfill.RunOnce(ctx, registry, backfill.WithClient(f.client))
		if err != nil {
			f.Fatal(err)
		}
		if diff := cmp.Diff(&backfill.Report{Completed: 1}, report); diff != "" {
			f.Errorf("report (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(full, args); diff != "" {
			f.Errorf("args (-want +got):\n%s", diff)
		}
		want := backfill.Job{
			ID: added.ID, Task: task.Name, Queue: "user:7 ü", Key: "letter:7 ü", Priority: -3, Attempt: 1, MaxAttempts: 7, RunAt: due,
			Flags: []string{"post", "slow"},
		}
		if diff := cmp.Diff(want, job, cmpopts.IgnoreFields(backfill.Job{}, "Args", "CreatedAt"), cmpopts.SortSlices(strings.Compare)); diff != "" {
			f.Errorf("job (-want +got):\n%s", diff)
		}
		f.wantNothingLeft()
		node.stop()
		node.wantNoComplaint()
	})
}

func TestGoEnqueuesNodeWorks(t *testing.T) {
	t.Parallel()
	inSchemas(t, func(f *fixture) {
		enqueued := f.enqueue(full, backfill.Queue("user:7 ü"), backfill.Key("letter:7 ü"), backfill.Priority(-3), backfill.MaxAttempts(7),
			backfill.RunAt(due), backfill.Flags("post", "slow"))
		node := startPeer(f)
		node.work(bodies{task.Name: ""}, nil)
		worked, _ := node.record.await(f.T, "the job", 0, is("job"))
		var args letter
		if err := json.Unmarshal(worked.Job.Payload, &args); err != nil {
			f.Fatal(err)
		}
		if diff := cmp.Diff(full, args); diff != "" {
			f.Errorf("payload (-want +got):\n%s", diff)
		}
		want := &nodeJob{
			ID: enqueued.ID, Task: task.Name, Queue: "user:7 ü", Key: "letter:7 ü", Priority: -3, Attempts: 1, MaxAttempts: 7, RunAt: due,
			Flags: map[string]bool{"post": true, "slow": true},
		}
		if diff := cmp.Diff(want, worked.Job, cmpopts.IgnoreFields(nodeJob{}, "Payload")); diff != "" {
			f.Errorf("job (-want +got):\n%s", diff)
		}
		node.stop()
		node.wantNoComplaint()
		f.wantNothingLeft()
	})
}

// Node's next poll is ten minutes away.
func TestGoWakesNode(t *testing.T) {
	t.Parallel()
	inSchemas(t, func(f *fixture) {
		node := startPeer(f)
		node.work(bodies{task.Name: ""}, map[string]any{"pollInterval": 600_000})
		node.record.await(f.T, "Node to listen", 0, event("pool:listen:success"))
		node.record.await(f.T, "Node to find nothing", 0, event("worker:getJob:empty"))
		f.awaitListener() // Node says that it listens before it does
		from := node.record.len()
		enqueued := f.enqueue(full)
		worked, before := node.record.await(f.T, "the job", from, is("job"))
		if worked.Job.ID != enqueued.ID {
			f.Errorf("Node worked job %d, want %d", worked.Job.ID, enqueued.ID)
		}
		notified := func(m message) bool { return event("pool:listen:notification")(m) && m.Channel == "jobs:insert" }
		if !slices.ContainsFunc(before, notified) {
			f.Errorf("Node had no notification: %+v", before)
		}
		node.stop()
	})
}

// Go polls every two seconds, so a poll may fall in between: then another try shows whether the jobs start without one.
func TestNodeWakesGo(t *testing.T) {
	t.Parallel()
	inSchemas(t, func(f *fixture) {
		events := f.work()
		events.await(f.T, "Go to listen", 0, ofKind(backfill.EventListening))
		node := startPeer(f)
		for range 5 {
			from := events.len()
			added := node.add(task.Name, full, nil)
			_, before := events.await(f.T, "the job's end", from, func(e backfill.Event) bool {
				return e.Kind == backfill.EventFinished && e.Job.ID == added.ID
			})
			if slices.ContainsFunc(before, ofKind(backfill.EventWoken)) && !slices.ContainsFunc(before, ofKind(backfill.EventPolled)) {
				return
			}
		}
		f.Error("jobs start only when Go polls")
	})
}
