package pg_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/wire"
)

// A tick of three entries, one of which is poisoned, enqueues nothing, and is then tried for each
// alone, as a worker does: the others get their jobs, and the poisoned one an error that says
// whether it is the job's fault. Then it is given up when its next is due; else it is tried again.
func TestPoisonedTick(t *testing.T) {
	t.Parallel()
	const onInsert = `create function poison() returns trigger language plpgsql as $$ begin %s end $$;
		create trigger poison before insert on graphile_worker._private_jobs for each row when (new.priority = 7) execute function poison()`
	on := func(body string) string { return strings.Replace(onInsert, "%s", body, 1) }
	const blames = true
	for name, poison := range map[string]struct {
		change func(*wire.Spec)
		sql    string
		hold   string
		blames bool // the job
	}{
		"payload not JSON":     {change: func(s *wire.Spec) { s.Payload = []byte("{") }, blames: blames},
		"payload empty":        {change: func(s *wire.Spec) { s.Payload = nil }, blames: blames},
		"payload with NUL":     {change: func(s *wire.Spec) { s.Payload = []byte("\"\x00\"") }, blames: blames},
		"payload not UTF-8":    {change: func(s *wire.Spec) { s.Payload = []byte("\"\xff\"") }, blames: blames},
		"payload too deep":     {change: func(s *wire.Spec) { s.Payload = []byte(strings.Repeat("[", 200_000)) }, blames: blames},
		"task not UTF-8":       {change: func(s *wire.Spec) { s.Task = "\xc3\x28" }, blames: blames},
		"task too long":        {change: func(s *wire.Spec) { s.Task = strings.Repeat("x", 129) }, blames: blames},
		"queue too long":       {change: func(s *wire.Spec) { s.Queue = strings.Repeat("x", 129) }, blames: blames},
		"queue with NUL":       {change: func(s *wire.Spec) { s.Queue = "q\x00" }, blames: blames},
		"key too long":         {change: func(s *wire.Spec) { s.Key = strings.Repeat("x", 513) }, blames: blames},
		"flag with NUL":        {change: func(s *wire.Spec) { s.Flags = []string{"\x00"} }, blames: blames},
		"no attempts":          {change: func(s *wire.Spec) { s.MaxAttempts = 0 }, blames: blames},
		"refused by a trigger": {sql: on("raise exception 'no';"), blames: blames},
		"dropped by a trigger": {sql: on("return null;"), blames: blames},
		"no rights":            {sql: on("raise insufficient_privilege;")},
		"disk full":            {sql: on("raise disk_full;")},
		"key held":             {change: func(s *wire.Spec) { s.Key = "held" }, hold: "select from graphile_worker._private_jobs where key = 'held' for update"},
		"tick held":            {hold: "select from graphile_worker._private_known_crontabs where identifier = 'bad' for update"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add("'a', job_key := 'held', run_at := 'infinity'")
			identifiers := []string{"first", "bad", "last"}
			if _, err := r.store.KnownCrontabs(t.Context(), identifiers, tick.Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
			var jobs []wire.Spec
			for i := range identifiers {
				jobs = append(jobs, wire.Spec{Task: "a", Payload: []byte("{}"), MaxAttempts: 25, RunAt: tick, Priority: int16(6 + i)})
			}
			if poison.change != nil {
				poison.change(&jobs[1])
			}
			if poison.sql != "" {
				dbtest.Run(t, r.pool, poison.sql)
			}
			if poison.hold != "" {
				tx, err := r.pool.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback(context.Background()) }()
				dbtest.Run(t, tx, poison.hold)
			}
			schedule := func(from, to int) error {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err := r.store.Tick(ctx, tick, identifiers[from:to], jobs[from:to])
				return err
			}
			for what, err := range map[string]error{"all": schedule(0, 3), "bad": schedule(1, 2)} {
				if rejected, ok := errors.AsType[*wire.RejectedError](err); err == nil || (ok && rejected.Row) != poison.blames {
					t.Errorf("%s: %v (blames the job: %v)", what, err, ok)
				}
			}
			for i := range 3 {
				if err := schedule(i, i+1); (err != nil) != (i == 1) {
					t.Errorf("%s: %v", identifiers[i], err)
				}
			}
			got := dbtest.Get[string](t, r.pool, "select string_agg(priority::text, ' ' order by id) from graphile_worker._private_jobs where key is null")
			if diff := cmp.Diff("6 8", got); diff != "" {
				t.Errorf("priorities of the jobs (-want +got):\n%s", diff)
			}
		})
	}
}
