package pg_test

import (
	"strings"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/pg"
)

// Contract section 5.2: a job is passed over if one of its flags is forbidden; without flags it
// never is. In a queue, the next one is taken.
func TestForbiddenFlags(t *testing.T) {
	t.Parallel()
	for _, queue := range []string{"", ", queue_name := 'q' || i"} {
		r := newRig(t)
		r.forbidden = []string{"slow", "odd\"flag"}
		add := func(flags string) int64 {
			return dbtest.Get[int64](t, r.pool, "select j.id from generate_series(1, 1) as i, graphile_worker.add_job('a'"+flags+queue+") as j")
		}
		forbidden := []int64{
			add(", flags := array['slow']"), add(", flags := array['fast', 'odd\"flag']"), add(", flags := array['slow', 'odd\"flag']"),
		}
		allowed := []int64{add(""), add(", flags := array['fast', 'slower']")}
		var got []int64
		for range allowed { // those in a queue come one by one
			jobs := r.claim(10)
			got = append(got, idsOf(jobs)...)
			if len(jobs) > 0 {
				endings["complete"](r, jobs...)
			}
		}
		wantIDs(t, "claimed", got, allowed...)
		r.claimNone()
		r.forbidden = []string{"slow"}
		jobs := r.claim(10)
		wantIDs(t, "claimed after the list changed", idsOf(jobs), forbidden[1])
		endings["complete"](r, jobs...)
		r.forbidden = nil
		for _, id := range []int64{forbidden[0], forbidden[2]} {
			if queue == "" {
				break
			}
			job := r.claimOne()
			wantIDs(t, "claimed without a list", []int64{job.ID}, id)
			endings["complete"](r, job)
		}
		r.wantConsistent()
	}
}

// Every condition on the task has one on the flags beside it, apart from those that look at a job
// which was found by another one; other texts have none.
func TestClaimTextsWithFlags(t *testing.T) {
	t.Parallel()
	texts := pg.ClaimTexts()
	for kind, again := range map[string]int{"free": 1, "front": 3, "deep": 3} {
		plain, passing := texts[kind], texts[kind+" without flags"]
		if n := strings.Count(plain, "?|"); n != 0 {
			t.Errorf("the %s text looks at flags %d times", kind, n)
		}
		if want, got := strings.Count(plain, "task_id = any(")-again, strings.Count(passing, " ?| $"); want != got || want <= 0 {
			t.Errorf("the %s text looks at tasks %d times, and at flags %d times", kind, want, got)
		}
	}
}
