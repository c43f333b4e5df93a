package main

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
)

// If jobs do not run in time, the figures are bounds, and the run is reported as unfinished.
func TestFloodFigures(t *testing.T) {
	t.Parallel()
	b := backlog{jobs: 1100, first: 100}
	for name, c := range map[string]struct {
		timing timing
		ran    int
		want   sample
	}{
		"all ran": {
			timing{Queued: 100, LastQueuedStart: 1, LastQueuedEnd: 2, LastFreeEnd: 4},
			1100,
			sample{lastQueued: 1000, lastQueuedShare: 0.25, queuedRate: 50, freeRate: 250},
		},
		"the queue starved": {
			timing{Queued: 3, LastQueuedStart: 1, LastQueuedEnd: 2, LastFreeEnd: 4},
			1003,
			sample{lastQueued: 60_000, lastQueuedShare: 15, queuedRate: 0.05, freeRate: 250, leftOver: 97, gaveUp: 60},
		},
		"nothing of the queue ran": {
			timing{LastFreeEnd: 4},
			1000,
			sample{lastQueued: 60_000, lastQueuedShare: 15, queuedRate: 0, freeRate: 250, leftOver: 100, gaveUp: 60},
		},
		"the flood starved": {
			timing{Queued: 100, LastQueuedStart: 1, LastQueuedEnd: 2, LastFreeEnd: 4},
			700,
			sample{lastQueued: 1000, lastQueuedShare: 1.0 / 60, queuedRate: 50, freeRate: 10, leftOver: 400, gaveUp: 60},
		},
		"nothing ran": {timing{}, 0, sample{lastQueued: 60_000, lastQueuedShare: 1, queuedRate: 0, freeRate: 0, leftOver: 1100, gaveUp: 60}},
	} {
		got := c.timing.sample(b, c.ran, time.Minute)
		if diff := cmp.Diff(c.want, got, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
			t.Errorf("%s: figures (-want +got):\n%s", name, diff)
		}
	}
}

// The jobs of queues are older than the free ones, and the stuck ones come before both. A run ends
// when its time is up, whatever is left.
func TestFlood(t *testing.T) {
	t.Parallel()
	server, err := startServer(t.Context(), options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.stop(); err != nil {
			t.Error(err)
		}
	})
	l, err := newLab(t.Context(), options{}, server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	s := ours{l.tables()}
	b := backlog{jobs: 230, first: 30, queues: 3, stuck: 20, locked: 1}
	if err := s.fill(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	rows, err := l.admin.Query(t.Context(), `
select coalesce(queue_name, 'free') from graphile_worker._private_jobs as j
  left join graphile_worker._private_job_queues as q on q.id = j.job_queue_id order by j.priority, j.run_at, j.id`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Repeat([]string{"stuck 0"}, 10) // by priority; those by time come next
	want = append(want, want...)
	want = append(want, slices.Repeat([]string{"queue 0", "queue 1", "queue 2"}, 10)...)
	want = append(want, slices.Repeat([]string{"free"}, 200)...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}

	figures, err := l.flood(t.Context(), s, b, true, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, unfinished := figures[leftOver]; unfinished || figures[lastQueued] <= 0 || figures[freeRate] <= 0 {
		t.Errorf("figures of a run with an end: %v", figures)
	}
	b.jobs, b.first = 20_000, 10_000 // of three queues: that takes longer than it may
	figures, err = l.flood(t.Context(), s, b, true, time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	if figures[leftOver] <= 0 {
		t.Errorf("figures of a run that was ended: %v", figures)
	}
}
