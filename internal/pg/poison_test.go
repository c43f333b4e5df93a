package pg_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

// Where a job is, as far as this test is about it.
const (
	isGone    = "gone"
	isLater   = "free, and due later"
	isDue     = "free and due"
	isSuspect = "a suspect"
	isLocked  = "locked"
	isOld     = "locked for long"
)

// batched is a statement about many rows.
type batched struct {
	queued  bool   // of jobs of queues
	claimed bool   // of jobs that this worker has claimed
	change  string // makes of all jobs what the statement is for
	others  string // where the jobs beside the poisoned one are then
	run     func(r *rig, jobs []*wire.Job) error
}

// batches are the statements that workers and operators make about many rows. The jobs of cron are
// inserted by batches too: TestPoisonedTick.
var batches = map[string]batched{
	"claim":           {others: isLocked, run: claimAll},
	"claim of queues": {queued: true, others: isLocked, run: claimAll},
	"claim with flags": {queued: true, others: isLocked, run: func(r *rig, jobs []*wire.Job) error {
		r.forbidden = []string{"slow", "x"}
		return claimAll(r, jobs)
	}},
	"complete": {claimed: true, queued: true, others: isGone, run: func(r *rig, jobs []*wire.Job) error {
		return halve(jobs, func(jobs []*wire.Job) ([]worker.Fate, error) { return r.store.Complete(r.quick(), leasesOf(jobs)) })
	}},
	"fail": {claimed: true, queued: true, others: isLater, run: failAll},
	"fail for good": {claimed: true, queued: true, others: isGone, run: func(r *rig, jobs []*wire.Job) error {
		outcome := worker.Outcome{Kind: worker.OutcomeExhausted, Text: "broken", Reason: worker.ReasonPermanent}
		return halve(jobs, func(jobs []*wire.Job) ([]worker.Fate, error) { return r.store.Fail(r.quick(), ended(jobs, outcome)) })
	}},
	"return": {claimed: true, queued: true, others: isDue, run: releaseAll(worker.Outcome{Kind: worker.OutcomeReturned})},
	"snooze": {claimed: true, queued: true, others: isLater, run: releaseAll(worker.Outcome{Kind: worker.OutcomeSnoozed, Delay: time.Hour})},
	"renew": {
		claimed: true, queued: true, change: "locked_at = locked_at - interval '3 hours'", others: isLocked,
		run: func(r *rig, jobs []*wire.Job) error {
			return halve(jobs, func(jobs []*wire.Job) ([]worker.Fate, error) { return r.store.Renew(r.quick(), leasesOf(jobs)) })
		},
	},
	"reclaim": {claimed: true, queued: true, others: isDue, run: func(r *rig, _ []*wire.Job) error {
		_, err := r.store.Reclaim(r.quick(), r.id, nil)
		return err
	}},
	"park": {claimed: true, queued: true, others: isSuspect, run: func(r *rig, jobs []*wire.Job) error {
		return halve(jobs, func(jobs []*wire.Job) ([]worker.Fate, error) { return r.store.Park(r.quick(), leasesOf(jobs)) })
	}},
	"sweep": {
		claimed: true, queued: true, change: "locked_at = locked_at - interval '5 hours'", others: isDue,
		run: func(r *rig, _ []*wire.Job) error {
			r.store.RestBy(func(time.Duration) bool { return true })
			swept, err := r.store.Sweep(r.quick(), r.id, false)
			if !swept.Turn || !swept.Done {
				r.t.Errorf("swept: %+v", swept)
			}
			return err
		},
	},
	"unlock": {claimed: true, queued: true, others: isDue, run: func(r *rig, _ []*wire.Job) error {
		_, _, _, err := pg.NewAdmin(r.pool, schemaName).Unlock(r.quick(), r.id)
		return err
	}},
	"advance": {queued: true, change: "run_at = now() + interval '1 hour'", others: isDue, run: func(r *rig, _ []*wire.Job) error {
		_, err := r.store.Advance(r.quick(), []int64{})
		return err
	}},
	"delete failed": {queued: true, change: "attempts = 1, max_attempts = 1", others: isGone, run: func(r *rig, _ []*wire.Job) error {
		_, err := pg.NewAdmin(r.pool, schemaName).DeleteFailed(r.quick())
		return err
	}},
	"rescue": {claimed: true, queued: true, others: isDue, run: func(r *rig, _ []*wire.Job) error {
		dbtest.Run(r.t, r.pool, "update graphile_worker.backfill_workers set dead_at = now() where id = $1", r.id)
		_, err := r.store.Rescue(r.quick(), worker.RescueRequest{IDs: []string{r.id}})
		return err
	}},
	"bury": {
		queued: true, others: isGone,
		change: "attempts = 25, last_error = 'no', updated_at = now() - interval '2 days', run_at = now() - interval '2 days'",
		run: func(r *rig, _ []*wire.Job) error {
			r.store.RestBy(func(time.Duration) bool { return true })
			swept, err := r.store.Sweep(r.quick(), r.id, false)
			if !swept.Turn || !swept.Done {
				r.t.Errorf("swept: %+v", swept)
			}
			return err
		},
	},
}

// asWhole are statements that fail as a whole beside a row that the server refuses: an operator
// reads the error and repeats them, or a test does.
var asWhole = []string{"unlock", "advance", "delete failed"}

// says are the statements that do what they can, and then return the error of a row.
var says = []string{"reclaim", "rescue", "sweep", "bury"}

// claimAll claims as a worker does.
func claimAll(r *rig, _ []*wire.Job) error {
	for {
		claimed, err := r.tryErr(20, 20)
		if err != nil || !claimed.More && claimed.Again == 0 {
			return err
		}
		r.wait(claimed)
	}
}

func failAll(r *rig, jobs []*wire.Job) error {
	outcome := worker.Outcome{Kind: worker.OutcomeFailed, Text: "broken", Delay: time.Hour}
	return halve(jobs, func(jobs []*wire.Job) ([]worker.Fate, error) { return r.store.Fail(r.quick(), ended(jobs, outcome)) })
}

func releaseAll(outcome worker.Outcome) func(*rig, []*wire.Job) error {
	return func(r *rig, jobs []*wire.Job) error {
		return halve(jobs, func(jobs []*wire.Job) ([]worker.Fate, error) { return r.store.Release(r.quick(), ended(jobs, outcome)) })
	}
}

// halve sends a statement as a worker does: what the server refuses for what a row holds is sent
// again in halves. A job that is refused alone waits for a retry.
func halve(jobs []*wire.Job, send func([]*wire.Job) ([]worker.Fate, error)) error {
	_, err := send(jobs)
	if rejected, ok := errors.AsType[*wire.RejectedError](err); !ok || !rejected.Row {
		return err
	}
	if n := len(jobs) / 2; n > 0 {
		return cmp.Or(halve(jobs[:n], send), halve(jobs[n:], send))
	}
	return nil
}

// poison is something that is wrong with one row.
type poison struct {
	set  string // columns
	hold string // a lock of another session
	raw  string // statements, in which %d is the job's id
	undo string // of raw
	// refused says that the server refuses every change of the row.
	refused bool
	// fates says where the poisoned job is after some statements; after the others it is where all
	// are.
	fates map[string]string
}

// after says that a job is in one place after these statements.
func after(where string, statements ...string) map[string]string {
	fates := make(map[string]string)
	for _, name := range statements {
		fates[name] = where
	}
	return fates
}

func with(all ...map[string]string) map[string]string {
	fates := make(map[string]string)
	for _, some := range all {
		maps.Copy(fates, some)
	}
	return fates
}

var (
	claims = []string{"claim", "claim of queues", "claim with flags"}
	ends   = []string{"complete", "fail", "fail for good", "return", "snooze", "park"}

	// notTaken: claims pass the job over.
	notTaken = after(isDue, claims...)
	// kept: nobody gets the row, and it stays as it is.
	kept = with(notTaken, after(isLocked, ends...), after(isLocked, "reclaim", "rescue", "unlock"), after(isOld, "renew", "sweep"),
		after(isLater, "advance"), after(isDue, "delete failed"), notBuried)
	// exhausted: the job will not be tried, unless the statement is about attempts.
	exhausted = with(notTaken, after(isLater, "advance"))
	// notFailed: the job does not count as failed for good.
	notFailed = after(isDue, "delete failed")
	// notBuried: the sweep makes no dead letter of it.
	notBuried = after(isDue, "bury")
	// far: the job is due in many years, and is left there.
	far = after(isLater, slices.Concat(claims, []string{"return", "reclaim", "rescue", "sweep", "unlock", "advance"})...)
	// lost: somebody else has locked the job, who may be at work.
	lost = with(after(isLocked, ends...), after(isOld, "renew"), after(isLocked, "reclaim", "rescue", "unlock"), after(isOld, "bury"))
)

// trigger is one of the application's, in %[1]s.
const trigger = `create function poison() returns trigger language plpgsql as $$ begin %[1]s end $$;
	create trigger poison before update or delete on graphile_worker._private_jobs
	for each row when (old.id = %%d) execute function poison()`

var poisons = map[string]poison{
	// Payloads, which nobody reads before the handler does.
	"payload null":       {set: `payload = 'null'`},
	"payload scalar":     {set: `payload = '"x"'`},
	"payload with NUL":   {set: `payload = '{"a":"\u0000"}'`},
	"payload half pair":  {set: `payload = '{"a":"\ud83d"}'`},
	"payload number":     {set: `payload = '[1e400, -1e400, 1e99999]'`},
	"payload deep":       {set: `payload = (repeat('[', 10000) || repeat(']', 10000))::json`},
	"payload keys twice": {set: `payload = '{"a":1,"a":{"a":2}}'`},
	"payload packed":     {set: `payload = to_json(repeat('x', 5000000))`},

	// Times.
	"run_at infinity":     {set: "run_at = 'infinity'", fates: far},
	"run_at -infinity":    {set: "run_at = '-infinity'"},
	"run_at last":         {set: "run_at = '294276-12-31 23:59:59.999999+00'", fates: far},
	"run_at first":        {set: "run_at = '4713-11-24 00:00:00+00 BC'"},
	"created_at":          {set: "created_at = 'infinity', updated_at = '-infinity'"},
	"locked_at infinity":  {set: "locked_at = 'infinity'", fates: with(notTaken, after(isOld, "sweep"), after(isLater, "advance"), notFailed, notBuried)},
	"locked_at -infinity": {set: "locked_at = '-infinity'", fates: with(notTaken, after(isLater, "advance"), notFailed, notBuried)},

	// Attempts.
	"attempts lowest":      {set: "attempts = -32768", fates: with(notFailed, notBuried)},
	"attempts highest":     {set: "attempts = 32767, max_attempts = 32767", fates: exhausted},
	"attempts before last": {set: "attempts = 32766, max_attempts = 32767", fates: with(notFailed, notBuried)},
	"attempts above":       {set: "attempts = 32767", fates: with(exhausted, notFailed)},
	"max_attempts 0": {
		set: "max_attempts = 0", raw: "alter table graphile_worker._private_jobs drop constraint if exists jobs_max_attempts_check",
		fates: with(exhausted, notFailed),
	},
	"max_attempts lowest": {
		set: "max_attempts = -32768", raw: "alter table graphile_worker._private_jobs drop constraint if exists jobs_max_attempts_check",
		fates: with(exhausted, notFailed),
	},
	"priority lowest":  {set: "priority = -32768"},
	"priority highest": {set: "priority = 32767"},
	"revision highest": {set: "revision = 2147483647"},

	// Names.
	"no queue row":     {set: "job_queue_id = 2147483647", fates: notTaken},
	"queue below 1":    {set: "job_queue_id = -2147483648", fates: notTaken},
	"no task row":      {set: "task_id = 2147483647", fates: with(notTaken, after(isLater, "advance"), notBuried)},
	"key of 512":       {set: "key = repeat('ü', 512)"},
	"key with escapes": {set: `key = E'\'"\\\n\x1b[2J%s'`},
	"last_error 10 MB": {set: "last_error = repeat('x', 10000000)"},

	// Locks.
	"locked by nobody": {
		set:   "locked_by = null, locked_at = now() - interval '5 hours'",
		fates: with(notTaken, after(isDue, ends...), after(isDue, "renew"), after(isLater, "advance"), notFailed, notBuried),
	},
	"locked never": {
		set:   "locked_by = 'pool-x', locked_at = null",
		fates: with(after(isOld, ends...), after(isOld, "renew", "reclaim", "rescue", "sweep", "unlock", "advance", "bury")),
	},
	"locked by nothing":      {set: "locked_by = ''", fates: with(lost, after(isOld, "advance"))},
	"locked by a dot":        {set: "locked_by = '.'", fates: with(lost, after(isOld, "advance"))},
	"locked by a pattern":    {set: `locked_by = E'%_\\E(.*'`, fates: with(lost, after(isOld, "advance"))},
	"locked by 1 MB":         {set: "locked_by = repeat('x', 1000000)", fates: with(lost, after(isOld, "advance"))},
	"locked by us, in words": {set: "locked_by = WORKER || '.x.y'", fates: with(lost, after(isOld, "advance"), after(isDue, "reclaim"))},
	"locked by us, in numbers": {
		set:   "locked_by = WORKER || '.1.99999999999999999999k'",
		fates: with(lost, after(isOld, "advance"), after(isDue, "reclaim")),
	},
	"locked by us, below 0": {set: "locked_by = WORKER || '.1.-1'", fates: with(lost, after(isOld, "advance"), after(isDue, "reclaim"))},

	// Flags.
	"flags array":  {set: `flags = '["x", 1]'`, fates: after(isDue, "claim with flags")},
	"flags text":   {set: `flags = '"x"'`, fates: after(isDue, "claim with flags")},
	"flags null":   {set: `flags = 'null'`},
	"flags number": {set: `flags = '1e400'`},
	"flags huge":   {set: "flags = (select jsonb_object_agg(repeat('f', 20) || i, i) from generate_series(1, 50000) as i)"},
	"flags nested": {set: `flags = '{"x": {"x": [null]}, "": false}'`, fates: after(isDue, "claim with flags")},

	// Other sessions, and the application's triggers.
	"held for update":        {hold: "for update", fates: kept},
	"held for no key update": {hold: "for no key update", fates: kept},
	"held for share":         {hold: "for share", fates: kept},
	"held for key share":     {hold: "for key share", fates: kept},
	"kept by a trigger":      {raw: fmt.Sprintf(trigger, "return null;"), undo: "drop function poison cascade", fates: kept},
	"refused by a trigger": {
		raw:  fmt.Sprintf(trigger, "raise exception 'refused' using errcode = 'check_violation';"),
		undo: "drop function poison cascade", fates: kept, refused: true,
	},
	"refused for its data": { // as a trigger does that expects something else in a payload
		raw: fmt.Sprintf(trigger, "perform (old.payload::text)::int; return old;"), undo: "drop function poison cascade", fates: kept, refused: true,
	},
}

// One bad row never fails a batch: the others are where they should be, nothing waits, and the bad
// one is where its fate says.
func TestPoisonedRow(t *testing.T) {
	t.Parallel()
	for statement, batch := range batches {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.store.LogTo(slog.New(slog.DiscardHandler))
			for _, name := range slices.Sorted(maps.Keys(poisons)) {
				t.Run(name, func(t *testing.T) {
					r.t = t
					r.poison(statement, batch, poisons[name])
				})
			}
		})
	}
}

// poison runs a statement on three jobs, the second of which is poisoned.
func (r *rig) poison(statement string, batch batched, p poison) {
	r.t.Helper()
	ctx := r.t.Context()
	dbtest.Run(r.t, r.pool, "delete from graphile_worker._private_jobs")
	dbtest.Run(r.t, r.pool, "delete from graphile_worker._private_job_queues")
	dbtest.Run(r.t, r.pool, "update graphile_worker.backfill_workers set swept_at = null")
	r.id, r.forbidden = wire.NewWorkerID(), nil
	r.register()
	var ids []int64
	for i := range 3 {
		queue := ""
		if batch.queued && i != 1 || batch.queued && strings.HasPrefix(statement, "claim") {
			queue = fmt.Sprintf(", queue_name := 'q%d'", i)
		}
		ids = append(ids, r.add("'a', run_at := now() - interval '1 hour' + $1 * interval '1 second'"+queue, i))
	}
	bad := ids[1]
	var jobs []*wire.Job
	if batch.claimed {
		jobs = r.claim(3)
		wantIDs(r.t, "claimed", idsOf(jobs), ids...)
	}
	if batch.change != "" {
		dbtest.Run(r.t, r.pool, "update graphile_worker._private_jobs set "+batch.change)
	}
	if p.raw != "" {
		sql := p.raw
		if strings.Contains(sql, "%d") {
			sql = fmt.Sprintf(sql, bad)
		}
		dbtest.Run(r.t, r.pool, sql)
	}
	if p.set != "" {
		set := strings.ReplaceAll(p.set, "WORKER", "'"+r.id+"'")
		dbtest.Run(r.t, r.pool, "update graphile_worker._private_jobs set "+set+" where id = $1", bad)
	}
	release := func() {}
	if p.hold != "" {
		tx, err := r.pool.Begin(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		release = func() { _ = tx.Rollback(context.Background()) }
		dbtest.Run(r.t, tx, "select from graphile_worker._private_jobs where id = $1 "+p.hold, bad)
	}
	others, fails := batch.others, false
	if p.refused {
		if fails = slices.Contains(says, statement); slices.Contains(asWhole, statement) {
			others, fails = p.fates[statement], true
		}
	}
	if err := batch.run(r, jobs); (err != nil) != fails {
		r.t.Errorf("error is %v", err)
	}
	release()
	if p.undo != "" {
		dbtest.Run(r.t, r.pool, p.undo)
	}
	for _, id := range ids {
		want := others
		if fate, ok := p.fates[statement]; ok && id == bad {
			want = fate
		}
		if got := r.whereIs(id); got != want {
			r.t.Errorf("job %d is %s, want %s", id-ids[0], got, want)
		}
	}
}

// whereIs says where a job is.
func (r *rig) whereIs(id int64) string {
	r.t.Helper()
	return dbtest.Get[string](r.t, r.pool, `select coalesce((select
		case when starts_with(locked_by, 'backfill-suspect.') then '`+isSuspect+`'
		     when locked_by is not null and locked_at between now() - interval '1 minute' and now() then '`+isLocked+`'
		     when locked_by is not null then '`+isOld+`'
		     when run_at <= now() then '`+isDue+`' else '`+isLater+`' end
		from graphile_worker._private_jobs where id = $1), '`+isGone+`')`, id)
}
