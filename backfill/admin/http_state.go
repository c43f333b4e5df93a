package admin

import (
	"context"
	"time"
)

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

func apiStatus(ctx context.Context, a *Admin, _ *nothing) (*Status, error) {
	return a.Status(ctx)
}

func apiListTasks(ctx context.Context, a *Admin, _ *nothing) (*TaskList, error) {
	return a.Tasks(ctx)
}

type listQueuesInput struct {
	pageInput
	QueueFilter `query:"*"`
}

func apiListQueues(ctx context.Context, a *Admin, in *listQueuesInput) (*QueueList, error) {
	return a.Queues(ctx, in.QueueFilter, NamePage{After: in.After, Size: in.Limit})
}

type showQueueInput struct {
	Name string `path:"name"`
}

func apiShowQueue(ctx context.Context, a *Admin, in *showQueueInput) (*Queue, error) {
	return a.Queue(ctx, in.Name)
}

func apiListRates(ctx context.Context, a *Admin, _ *nothing) (*Rates, error) {
	return a.Rates(ctx)
}

func apiListWorkers(ctx context.Context, a *Admin, _ *nothing) (*WorkerList, error) {
	return a.Workers(ctx)
}

func apiExamine(ctx context.Context, a *Admin, _ *nothing) (*Diagnosis, error) {
	return a.Doctor(ctx)
}

func apiPreviewFixes(ctx context.Context, a *Admin, _ *previewFixesInput) (*FixPreview, error) {
	return a.PreviewFixes(ctx)
}

type previewFixesInput struct {
	Body struct{} `body:"*"`
}

type fixInput struct {
	Body struct {
		reasoned

		Token string `json:"token"` // of the preview
	} `body:"*"`
}

func apiFix(ctx context.Context, a *Admin, in *fixInput) (*Fixed, error) {
	return a.Fix(ctx, in.Body.Token, ChangeOptions{Reason: in.Body.Reason})
}

type listRecordsInput struct {
	pageInput
	RecordFilter `query:"*"`
}

func apiListRecords(ctx context.Context, a *Admin, in *listRecordsInput) (*RecordList, error) {
	return a.Records(ctx, in.RecordFilter, in.After, in.Limit)
}
