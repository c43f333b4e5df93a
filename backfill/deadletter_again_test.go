package backfill_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A job goes round: it becomes a dead letter, is requeued, and becomes the same dead letter again,
// however often. There is never a second one, and a success of its key deletes it.
func TestDeadLetterGoesRound(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	task := &backfill.Task[struct{}]{Name: "t", MaxAttempts: 1}
	says := errors.New("first")
	registry := backfill.NewRegistry(backfill.Handle(task, func(context.Context, struct{}) error { return says }))
	runOnce := func() {
		t.Helper()
		if _, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client)); err != nil {
			t.Fatal(err)
		}
	}
	job, err := backfill.Enqueue(t.Context(), client, task, struct{}{}, backfill.Key("k"), backfill.Queue("q"))
	if err != nil {
		t.Fatal(err)
	}
	runOnce()
	first := theLetter(t, client)
	if first.JobID != job.ID || first.Failures != 1 || first.FirstError != "first" || first.LastError != "first" {
		t.Errorf("after the first failure it is %+v", first)
	}
	for round, text := range []string{"second", "third"} {
		says = errors.New(text)
		result := requeue(t, client, backfill.DeadLetterFilter{IDs: []int64{first.ID}})
		if result.Acted != 1 {
			t.Fatalf("requeue: %+v", result)
		}
		runOnce()
		again := theLetter(t, client)
		if again.ID != first.ID || again.Failures != round+2 || again.Requeues != round+1 || again.JobID != result.Outcomes[0].JobID ||
			again.FirstError != "first" || again.LastError != text || again.Key != "k" || again.Queue != "q" {
			t.Errorf("after round %d it is %+v", round+1, again)
		}
	}
	says = nil
	requeue(t, client, backfill.DeadLetterFilter{All: true})
	runOnce()
	if letters := filtered(t, client, backfill.DeadLetterFilter{}); len(letters) != 0 {
		t.Errorf("after a success there are %+v", letters)
	}
	if n := len(jobRows(t, db)); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
}

// theLetter returns the one dead letter that there is.
func theLetter(t *testing.T, client *backfill.Client) *backfill.DeadLetter {
	t.Helper()
	letters := filtered(t, client, backfill.DeadLetterFilter{})
	if len(letters) != 1 {
		t.Fatalf("there are %d dead letters: %+v", len(letters), letters)
	}
	return letters[0]
}

func filtered(t *testing.T, client *backfill.Client, filter backfill.DeadLetterFilter) []*backfill.DeadLetter {
	t.Helper()
	list, err := client.DeadLetters(t.Context(), filter, backfill.DeadLetterPage{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Letters
}

// A transactional job that succeeds deletes the dead letters of its task and key, with all else
// that its transaction does: not if that is rolled back.
func TestTransactionalSuccessClearsDeadLetters(t *testing.T) {
	t.Parallel()
	r := newTxRig(t)
	says := backfill.Permanent(errors.New("no"))
	task, registry := txTask(func(task *backfill.Task[txArgs]) { task.MaxAttempts = 2 }, func(ctx context.Context, tx pgx.Tx, _ txArgs) error {
		return says
	})
	runs := func(key string, returns error) int {
		t.Helper()
		says = returns
		enqueue(t, r.client, task, txArgs{}, backfill.Key(key))
		runOnce(t, r.client, registry)
		return len(filtered(t, r.client, backfill.DeadLetterFilter{}))
	}
	if n := runs("k", says) + runs("other", says); n != 1+2 {
		t.Fatalf("%d dead letters", n)
	}
	if n := runs("k", errors.New("again")); n != 2 {
		t.Errorf("after a failure %d dead letters, want 2", n)
	}
	if n := runs("k", nil); n != 1 {
		t.Errorf("after a success %d dead letters, want that of the other key", n)
	}
}

// A key can have very many dead letters: a crontab entry that has failed for months. A success
// deletes 1,000 of them, and the next ones the others, in a transaction and without.
func TestSuccessClearsDeadLettersInPortions(t *testing.T) {
	t.Parallel()
	for name, transactional := range map[string]bool{"plain": false, "transactional": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTxRig(t)
			task, registry := txTask(nil, func(context.Context, pgx.Tx, txArgs) error { return nil })
			if !transactional {
				registry = backfill.NewRegistry(backfill.Handle(task, func(context.Context, txArgs) error { return nil }))
			}
			addLetters(t, r.db, 2500)
			run(t, r.db, "update graphile_worker.backfill_dlq set task_identifier = 'transactional', job_key = 'k'")
			addLetter(t, r.db, map[string]string{"task_identifier": "'transactional'", "job_key": "'rare'"})
			var left []int
			for range 3 {
				for _, key := range []string{"k", "rare"} {
					enqueue(t, r.client, task, txArgs{}, backfill.Key(key))
				}
				runOnce(t, r.client, registry)
				left = append(left, get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker.backfill_dlq"))
			}
			if diff := cmp.Diff([]int{1500, 500, 0}, left); diff != "" {
				t.Errorf("dead letters after each success (-want +got):\n%s", diff)
			}
		})
	}
}
