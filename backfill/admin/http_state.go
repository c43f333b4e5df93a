package admin

import (
	"context"
	"net/http"
	"reflect"
	"time"
)

// stateRoutes say how it all stands.
func stateRoutes() []*route {
	return []*route{
		{
			method: http.MethodGet, path: "/health", name: "health", summary: "Say whether the database answers", open: true, status: http.StatusOK,
			missing: "NOT_FOUND", failure: "QUERY_ERROR", input: newInput(reflect.TypeFor[nothing]()), reply: reflect.TypeFor[*Health](),
			serve: func(ctx context.Context, h *handler, _ any) (any, error) { return h.health.ask(ctx, h.admin), nil },
		},
		to(http.MethodGet, "/status", "status", "Count jobs, dead letters, workers and pauses", func(ctx context.Context, a *Admin, _ *nothing) (*Status, error) {
			return a.Status(ctx)
		}),
		to(http.MethodGet, "/tasks", "listTasks", "Count the jobs of each task", func(ctx context.Context, a *Admin, _ *nothing) (*TaskList, error) {
			return a.Tasks(ctx)
		}),
		to(http.MethodGet, "/queues", "listQueues", "List queues, by name", func(ctx context.Context, a *Admin, in *struct {
			pageInput
			QueueFilter `query:"*"`
		}) (*QueueList, error) {
			return a.Queues(ctx, in.QueueFilter, NamePage{After: in.After, Size: in.Limit})
		}),
		to(http.MethodGet, "/queues/{name}/stats", "showQueue", "Show a queue", func(ctx context.Context, a *Admin, in *struct {
			Name string `path:"name"`
		}) (*Queue, error) {
			return a.Queue(ctx, in.Name)
		}).with("QUEUE_NOT_FOUND", ""),
		to(http.MethodGet, "/workers", "listWorkers", "List workers", func(ctx context.Context, a *Admin, _ *nothing) (*WorkerList, error) {
			return a.Workers(ctx)
		}),
		to(http.MethodGet, "/doctor", "examine", "Look for what is wrong with the database", func(ctx context.Context, a *Admin, _ *nothing) (*Diagnosis, error) {
			return a.Doctor(ctx)
		}),
		to(http.MethodGet, "/audit", "listRecords", "List the records of changes, the newest first", func(ctx context.Context, a *Admin, in *struct {
			pageInput
			RecordFilter `query:"*"`
		}) (*RecordList, error) {
			return a.Records(ctx, in.RecordFilter, in.After, in.Limit)
		}),
	}
}

// Status is how a queue stands, in numbers.
type Status struct {
	_ [0]func() // fields may be added

	At          time.Time    `json:"at"` // by the database's clock
	Schema      string       `json:"schema"`
	Jobs        States       `json:"jobs"`
	DeadLetters Count        `json:"dead_letters"` // without those that are requeued
	Workers     WorkerCounts `json:"workers"`
	Pauses      int          `json:"pauses"` // of tasks and queues
	// Missing is what could not be read: the numbers are without it.
	Missing []Missing `json:"missing,omitempty"`
}

// WorkerCounts says how many Go workers there are, by state.
type WorkerCounts struct {
	Lives    int `json:"lives"`
	Silent   int `json:"silent"`
	Emptying int `json:"emptying"`
	Stopping int `json:"stopping"`
	Dead     int `json:"dead"` // in the last day
	// NodeSessions is how many sessions listen as Node workers do; nil: that cannot be seen.
	NodeSessions *int64 `json:"node_sessions,omitempty"`
}

// Status counts jobs, dead letters, workers and pauses, of those that the principal may read. The
// numbers are read one after the other.
func (a *Admin) Status(ctx context.Context) (*Status, error) {
	counts, err := a.Counts(ctx)
	if err != nil {
		return nil, err
	}
	letters, err := a.LetterStats(ctx)
	if err != nil {
		return nil, err
	}
	workers, err := a.Workers(ctx)
	if err != nil {
		return nil, err
	}
	pauses, err := a.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	s := &Status{
		At: counts.At, Schema: a.schema, Jobs: counts.States, DeadLetters: letters.Total, Pauses: len(pauses.Pauses),
		Workers: WorkerCounts{NodeSessions: workers.NodeSessions},
	}
	for i := range workers.Workers {
		switch workers.Workers[i].State {
		case WorkerLives:
			s.Workers.Lives++
		case WorkerSilent:
			s.Workers.Silent++
		case WorkerEmptying:
			s.Workers.Emptying++
		case WorkerStopping:
			s.Workers.Stopping++
		case WorkerDead:
			s.Workers.Dead++
		}
	}
	seen := map[Missing]bool{}
	for _, list := range [][]Missing{counts.Missing, letters.Missing, workers.Missing, pauses.Missing} {
		for _, missing := range list {
			if !seen[missing] {
				s.Missing = append(s.Missing, missing)
			}
			seen[missing] = true
		}
	}
	return s, nil
}
