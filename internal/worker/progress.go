package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

const (
	// progressEvery is how often a worker writes down at most how far its jobs are: all of them in one
	// statement. progressTimeout is how long that may take.
	progressEvery, progressTimeout = time.Second, 2 * time.Second
	// maxOver is how many jobs that have ended wait at most to have their progress deleted. The sweep
	// deletes that of others.
	maxOver = 10_000
)

// Progress is how far an attempt is, as its handler says.
type Progress struct {
	wire.Lease

	Done, Total int64
	Note        string
}

// progress is what handlers have said and the database does not know yet.
type progress struct {
	mu      sync.Mutex
	fresh   map[wire.Lease]Progress
	written map[wire.Lease]bool // of jobs that run
	over    []wire.Lease        // of jobs that have ended
}

func newProgress() *progress {
	return &progress{fresh: make(map[wire.Lease]Progress), written: make(map[wire.Lease]bool)}
}

// Progress notes how far an attempt is. What one of a job that has ended says is dropped.
func (w *Worker) Progress(said Progress) {
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	w.progress.fresh[said.Lease] = said
}

// ended forgets a job whose handler has returned.
func (p *progress) ended(lease wire.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.fresh, lease)
	if !p.written[lease] {
		return
	}
	delete(p.written, lease)
	if len(p.over) < maxOver {
		p.over = append(p.over, lease)
	}
}

// take returns what is to be written.
func (p *progress) take() (rows []Progress, over []wire.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for lease, said := range p.fresh {
		rows = append(rows, said)
		p.written[lease] = true
	}
	clear(p.fresh)
	over, p.over = p.over, nil
	return rows, over
}

// putBack takes what could not be written, unless there is something newer.
func (p *progress) putBack(rows []Progress, over []wire.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, said := range rows {
		if _, newer := p.fresh[said.Lease]; !newer && p.written[said.Lease] {
			p.fresh[said.Lease] = said
		}
	}
	p.over = append(over, p.over...)
	p.over = p.over[:min(len(p.over), maxOver)]
}

// writeOn writes down how far jobs are until ctx ends, apart from everything else.
func (w *Worker) writeOn(ctx context.Context) {
	for sleep(ctx, progressEvery) {
		w.writeProgress(ctx)
	}
}

func (w *Worker) writeProgress(ctx context.Context) {
	rows, over := w.progress.take()
	if len(rows)+len(over) == 0 {
		return
	}
	statement, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	if err := w.store.Progress(statement, rows, over); err != nil {
		w.progress.putBack(rows, over)
		if ctx.Err() == nil {
			w.troubles.progress.Failure(w.config.Logger, err, slog.Int("jobs", len(rows)))
		}
		return
	}
	w.troubles.progress.Success(w.config.Logger)
}
