package admin

import (
	"context"
	"net/http"
)

// pauseRoutes are about what is paused.
func pauseRoutes() []*route {
	return []*route{
		to(http.MethodGet, "/pauses", "listPauses", "List what is paused", func(ctx context.Context, a *Admin, _ *nothing) (*PauseList, error) {
			return a.Pauses(ctx)
		}),
		to(http.MethodPost, "/pauses", "pause", "Keep the jobs of a task or a queue from starting", func(ctx context.Context, a *Admin, in *struct {
			repeatable
			Body struct {
				reasoned
				PauseRequest
			} `body:"PauseBody"`
		}) (*Outcome, error) {
			return settled(a.Pause(ctx, in.Body.PauseRequest, in.options(in.Body.Reason)))
		}).with("TASK_NOT_FOUND", ""),
		to(http.MethodDelete, "/pauses", "resume", "Let the jobs of a task or a queue start again", func(ctx context.Context, a *Admin, in *struct {
			Task  string `query:"task"`
			Queue string `query:"queue"`
			repeatable
			Reason string `query:"reason"`
		}) (*Outcome, error) {
			return settled(a.Resume(ctx, PauseRequest{Task: in.Task, Queue: in.Queue}, in.options(in.Reason)))
		}).with("TASK_NOT_FOUND", ""),
	}
}

// cronRoutes are about schedules.
func cronRoutes() []*route {
	return []*route{
		to(http.MethodGet, "/cron", "listCrontabs", "List the entries of schedules, by identifier", func(ctx context.Context, a *Admin, in *struct{ pageInput }) (*CrontabList, error) {
			return a.Crontabs(ctx, NamePage{After: in.After, Size: in.Limit})
		}),
	}
}
