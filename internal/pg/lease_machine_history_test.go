package pg_test

import (
	"fmt"

	"github.com/backfillhq/go/internal/worker"
)

// kept checks that the history has once what became of jobs that are gone.
func (m *leaseMachine) kept(what string, leases []*heldLease, fates []worker.FateKind) {
	for i, l := range leases {
		outcome := map[worker.FateKind]string{worker.FateCanceled: "canceled", worker.FateSuperseded: "superseded"}[fates[i]]
		if what == "complete" && fates[i] == worker.FateRecorded {
			outcome = "completed"
		}
		if outcome == "" {
			continue
		}
		var rows int
		must(m, m.pool.QueryRow(m.ctx(), `select count(*) from graphile_worker.backfill_history where job_id = $1 and outcome = $2`,
			l.ID, outcome).Scan(&rows))
		if rows != 1 {
			m.broken(what+": the history has a job's end not once", fmt.Sprintf("job %d, %s: %d rows", l.ID, outcome, rows))
		}
	}
}

// keptOnce checks that no job has ended twice, whoever has ended it: whose row is deleted does not
// come back.
func (m *leaseMachine) keptOnce() {
	var twice string
	must(m, m.pool.QueryRow(m.ctx(), `select coalesce(string_agg(format('job %s: %s', job_id, outcomes), '; '), '') from (
		select job_id, string_agg(outcome, ', ') as outcomes from graphile_worker.backfill_history
		 where outcome in ('completed', 'canceled', 'superseded', 'removed') group by job_id having count(*) > 1) as t`).Scan(&twice))
	if twice != "" {
		m.broken("the history has the end of a job twice", twice)
	}
}
