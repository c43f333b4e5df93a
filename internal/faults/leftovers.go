//go:build unix

package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// leftovers writes down each row that is left, of a job or a dead letter, with the requests that it
// has.
func (f *fleet) leftovers(ctx context.Context) error {
	return f.server.with(ctx, database, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `select j.id, coalesce(j.locked_by, ''), coalesce(j.key, ''), j.attempts, j.attempts >= j.max_attempts, coalesce(j.last_error, ''),
			array(select (e->>'n')::bigint from jsonb_array_elements(case jsonb_typeof(j.payload::jsonb) when 'array' then j.payload::jsonb else jsonb_build_array(j.payload) end) e where e ? 'n'),
			j.letter, j.failure_reason, j.failure_count, j.requeued_count, j.requeued_job_id
			from (select id, locked_by, key, attempts, max_attempts, last_error, payload,
			             0 as letter, '' as failure_reason, 0 as failure_count, 0 as requeued_count, 0 as requeued_job_id from graphile_worker._private_jobs
			      union all select original_job_id, null, job_key, attempts, 0, last_error, payload,
			             id, failure_reason, failure_count, requeued_count, coalesce(requeued_job_id, 0) from graphile_worker.backfill_dlq) j`)
		if err != nil {
			return fmt.Errorf("look what is left: %w", err)
		}
		var r record
		var l letter
		var exhausted bool
		_, err = pgx.ForEachRow(rows, []any{
			&r.Job, &r.Name, &r.Key, &r.Attempt, &exhausted, &r.Text, &r.Ns, &l.ID, &l.Reason, &l.Failures, &l.Requeues, &l.RequeuedAs,
		}, func() error {
			r.Op, r.Count, r.Letter = opLeft, 0, nil
			if exhausted {
				r.Count = 1
			}
			if l.ID > 0 {
				r.Letter = &l
			}
			f.log.write(r)
			return nil
		})
		return err
	})
}
