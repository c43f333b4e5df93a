package admin

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Health says whether the database answers.
type Health struct {
	_ [0]func() // fields may be added

	Status    string    `json:"status"` // ok or unavailable
	Timestamp time.Time `json:"timestamp"`
}

func (h *Health) httpStatus() int {
	if h.Status != "ok" {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// healthRoute is there for everybody.
func healthRoute() *route {
	r := to("GET /health", "health", ActionRead, "Say whether the database answers", func(context.Context, *Admin, *nothing) (*Health, error) { return nil, nil }) //nolint:nilnil // below
	r.open = true
	r.serve = func(ctx context.Context, h *handler, _ any) (any, error) { return h.health.ask(ctx, h.admin), nil }
	return r
}

// health asks the database once in a second at most, however many ask for it without a password.
type health struct {
	mu   sync.Mutex
	last Health
}

const (
	healthEvery   = time.Second
	healthTimeout = 3 * time.Second
)

func (h *health) ask(ctx context.Context, a *Admin) *Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.last.Timestamp) < healthEvery {
		return &Health{Status: h.last.Status, Timestamp: h.last.Timestamp}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
	defer cancel()
	status := "ok"
	if err := a.pool.Ping(ctx); err != nil && a.pool.Stat().AcquiredConns() < a.pool.Config().MaxConns { // else it answers others
		status = "unavailable"
	}
	h.last = Health{Status: status, Timestamp: time.Now().UTC()}
	return &Health{Status: h.last.Status, Timestamp: h.last.Timestamp}
}
