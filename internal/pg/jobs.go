package pg

import (
	"context"

	"github.com/backfillhq/go/internal/pg/query"
)

// JobRow is a job of a list, with the beginning of its error, and its payload unless that is too large.
type JobRow = query.JobsNewestRow

// JobPage says which of the jobs that a filter matches are wanted: those with ids from Least to Most,
// and which first.
type JobPage struct {
	Least, Most  int64
	Oldest       bool    // ids first that are smallest, instead of greatest
	But          []int64 // leaves these out
	Size         int
	PayloadLimit int // in bytes; larger payloads are left out
}

// Jobs reads a page of jobs.
func Jobs(ctx context.Context, r *Reader, f JobFilter, page JobPage) ([]JobRow, error) {
	p := f.params()
	p.Least, p.Most, p.But, p.Size, p.PayloadLimit = page.Least, page.Most, page.But, int32(page.Size), int64(page.PayloadLimit) //nolint:gosec // bounded
	return Fact(ctx, r, "the jobs", func(q *query.Queries, ctx context.Context) ([]JobRow, error) {
		if !page.Oldest {
			return q.JobsNewest(ctx, p)
		}
		found, err := q.JobsOldest(ctx, query.JobsOldestParams(p))
		rows := make([]JobRow, len(found))
		for i, row := range found {
			rows[i] = JobRow(row)
		}
		return rows, err
	})
}

// JobsWithin cuts a range of ids at so many jobs: it returns how many there are, and the range that
// these have, from the end where the page begins.
func JobsWithin(ctx context.Context, r *Reader, page JobPage, most int) (jobs int64, within JobPage, err error) {
	within = page
	if page.Oldest {
		row, err := Fact(ctx, r, "the jobs", func(q *query.Queries, ctx context.Context) (query.JobsAboveRow, error) {
			return q.JobsAbove(ctx, query.JobsAboveParams{Least: page.Least, Most: page.Most, Size: int32(most)}) //nolint:gosec // bounded
		})
		within.Most = row.Bound
		return row.Jobs, within, err
	}
	row, err := Fact(ctx, r, "the jobs", func(q *query.Queries, ctx context.Context) (query.JobsBelowRow, error) {
		return q.JobsBelow(ctx, query.JobsBelowParams{Least: page.Least, Most: page.Most, Size: int32(most)}) //nolint:gosec // bounded
	})
	within.Least = row.Bound
	return row.Jobs, within, err
}

// PreferIndexes keeps the rest of a reader's transaction from reading whole tables where an index
// leads to a few rows: a table that was never analyzed is taken for a small one.
func (r *Reader) PreferIndexes(ctx context.Context) error {
	_, err := r.tx.Exec(ctx, `select pg_catalog.set_config('enable_seqscan', 'off', true), pg_catalog.set_config('enable_bitmapscan', 'off', true)`)
	return err
}

// Narrow returns the filter for the jobs among these alone.
func (f JobFilter) Narrow(ids []int64) JobFilter {
	f.IDs = intersect(f.IDs, ids)
	return f
}

// intersect returns the ids that are in both; nil is all.
func intersect(some, others []int64) []int64 {
	if some == nil {
		return others
	}
	in := make(map[int64]bool, len(some))
	for _, id := range some {
		in[id] = true
	}
	both := []int64{}
	for _, id := range others {
		if in[id] {
			both = append(both, id)
		}
	}
	return both
}

// Points reports whether an index leads to the jobs that can match: no others are searched.
func (f *JobFilter) Points() bool { return f.IDs != nil || f.Keys != nil }
