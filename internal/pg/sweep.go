package pg

import (
	"context"
	"fmt"

	"github.com/backfillhq/go/internal/pg/query"
)

// sweepPage is how many rows one statement of a sweep looks at.
const sweepPage = 10_000

// sweep goes through all jobs, and then all queues, and releases what is locked for too long.
type sweep struct {
	queries *query.Queries
	schema  string
	inTurn  bool // leave it to another worker that is sweeping
	// Where it goes on. A sweep that ends for its deadline is continued by the next one, so that a
	// table which takes longer is swept, too.
	queueing bool // the jobs are done
	after    int64
}

func newSweep(queries *query.Queries, schema string, inTurn bool) *sweep {
	return &sweep{queries: queries, schema: schema, inTurn: inTurn}
}

func (s *sweep) run(ctx context.Context) (jobs, queues int, err error) {
	for {
		params := query.SweepJobsParams{InTurn: s.inTurn, SchemaName: s.schema, After: s.after, Size: sweepPage}
		if !s.queueing {
			page, err := s.queries.SweepJobs(ctx, params)
			jobs += int(page.Swept)
			if err != nil {
				return jobs, queues, fmt.Errorf("release stale jobs: %w", err)
			}
			if !page.Got {
				return jobs, queues, nil
			}
			s.after, s.queueing = page.Last, page.Seen < sweepPage
			if s.queueing {
				s.after = 0
			}
			continue
		}
		page, err := s.queries.SweepQueues(ctx, query.SweepQueuesParams(params))
		queues += int(page.Swept)
		if err != nil {
			return jobs, queues, fmt.Errorf("release stale queues: %w", err)
		}
		if !page.Got {
			return jobs, queues, nil
		}
		s.after = page.Last
		if page.Seen < sweepPage {
			s.after, s.queueing = 0, false
			return jobs, queues, nil
		}
	}
}
