package backfill

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
)

// Probes answers the health probes of a platform such as Kubernetes, for workers that were given
// [WithProbes], also those that [Run] makes. The zero value works, before there is a worker too:
//
//	var probes backfill.Probes
//	mux.Handle("/livez", probes.Live())
//	mux.Handle("/readyz", probes.Ready())
//	err := backfill.Run(ctx, registry, backfill.WithProbes(&probes))
//
// Several workers of a process can share it. A worker that has stopped is forgotten once another
// one is made. It is safe for concurrent use.
type Probes struct {
	mu      sync.Mutex
	workers []*Worker
}

// WithProbes makes probes answer for the worker. The option can be given several times.
// Default: none.
func WithProbes(probes *Probes) WorkerOption {
	return workerOption(func(c *workerConfig) {
		c.require(probes != nil, "WithProbes: the probes are nil: pass new(backfill.Probes), or leave the option out")
		c.probes = append(c.probes, probes)
	})
}

// Live answers liveness probes: 200, or 503 if a worker has stopped while the process goes on, or
// does not go on ([Health].Stuck), which only a restart can fix. It asks nothing of the database,
// so an outage restarts no workers. While a worker starts or drains it is alive.
func (p *Probes) Live() http.Handler { return answer(p.live) }

// Ready answers readiness probes: 200, or 503 with the reason unless all workers are ready, as
// [Health.Ready] says. Without a worker nothing is ready. It sends no query either.
func (p *Probes) Ready() http.Handler { return answer(p.ready) }

// Health returns the health of each worker, for metrics. It sends no query.
func (p *Probes) Health() []Health { return p.health() }

func (p *Probes) add(w *Worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.workers = slices.DeleteFunc(p.workers, func(w *Worker) bool { return w.Health().State == StateStopped })
	p.workers = append(p.workers, w)
}

// health returns the health of each worker.
func (p *Probes) health() []Health {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Health, len(p.workers))
	for i, w := range p.workers {
		list[i] = w.Health()
	}
	return list
}

func (p *Probes) live() error {
	for _, h := range p.health() {
		if h.State == StateStopped {
			return fmt.Errorf("worker %s has stopped", h.WorkerID)
		}
		if h.Stuck != "" {
			return fmt.Errorf("worker %s is stuck: %s", h.WorkerID, h.Stuck)
		}
	}
	return nil
}

func (p *Probes) ready() error {
	list := p.health()
	if len(list) == 0 {
		return errors.New("there is no worker yet")
	}
	for _, h := range list {
		if err := h.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// answer makes a handler that answers with 200 or with 503 and the reason.
func answer(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		text := "ok"
		if err := check(); err != nil {
			text = err.Error()
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, text+"\n") // the platform went away: there is nobody to tell
	})
}
