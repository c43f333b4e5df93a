package backfill_test

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// addLetter inserts a dead letter, with these columns and what a row has to have, and returns its
// id. A value is SQL.
func addLetter(t *testing.T, db *pgtest.Database, columns map[string]string) int64 {
	t.Helper()
	row := map[string]string{
		"original_job_id": "1000", "task_identifier": "'t'", "payload": "'{}'", "priority": "0", "max_attempts": "25", "attempts": "25",
		"failure_reason": "'exhausted'", "last_error": "'it broke'", "first_error": "'it broke'",
		"original_created_at": "now() - interval '1 day'", "original_run_at": "now() - interval '1 day'",
	}
	maps.Copy(row, columns)
	names := slices.Sorted(maps.Keys(row))
	var values []string
	for _, name := range names {
		values = append(values, row[name])
	}
	return get[int64](t, db.Pool(), "insert into graphile_worker.backfill_dlq ("+strings.Join(names, ", ")+") values ("+strings.Join(values, ", ")+") returning id")
}

// addLetters inserts n dead letters of the task t, a second apart, the first the oldest. Their
// payloads are {"n": 1} and so on.
func addLetters(t *testing.T, db *pgtest.Database, n int) {
	t.Helper()
	exec(t, db.Pool(), `insert into graphile_worker.backfill_dlq (original_job_id, task_identifier, payload, priority, max_attempts, attempts,
		failure_reason, last_error, original_created_at, original_run_at, failed_at)
		select 100000 + i, 't', format('{"n": %s}', i)::json, 0, 25, 25, 'exhausted', 'it broke', now(), now(), now() + (i - $1::int) * interval '1 second'
		from generate_series(1, $1::int) as i order by i`, n)
}

// outcomes are what became of dead letters: "" for those that were acted on.
func outcomes(result *backfill.DeadLetterResult) map[int64]backfill.DeadLetterSkip {
	found := map[int64]backfill.DeadLetterSkip{}
	for _, o := range result.Outcomes {
		found[o.ID] = o.Skip
	}
	return found
}

// requeue requeues what a filter matches.
func requeue(t *testing.T, client *backfill.Client, filter backfill.DeadLetterFilter) *backfill.DeadLetterResult {
	t.Helper()
	result, err := client.RequeueDeadLetters(t.Context(), filter, backfill.DeadLetterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// only matches dead letters by id.
func only(ids ...int64) backfill.DeadLetterFilter { return backfill.DeadLetterFilter{IDs: ids} }

// oneOutcome requeues a dead letter and returns what became of it.
func oneOutcome(t *testing.T, client *backfill.Client, id int64) backfill.DeadLetterOutcome {
	t.Helper()
	result := requeue(t, client, only(id))
	if len(result.Outcomes) != 1 || result.Outcomes[0].ID != id || result.Acted+result.Skipped != 1 {
		t.Fatalf("dead letter %d: %+v", id, result)
	}
	return result.Outcomes[0]
}

func quoteSQL(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func number(n int64) string { return strconv.FormatInt(n, 10) }
