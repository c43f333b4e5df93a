package admin

import (
	"context"
)

func apiListPauses(ctx context.Context, a *Admin, _ *nothing) (*PauseList, error) {
	return a.Pauses(ctx)
}

type pauseInput struct {
	repeatable

	Body struct {
		reasoned
		PauseRequest
	} `body:"*"`
}

func apiPause(ctx context.Context, a *Admin, in *pauseInput) (*Outcome, error) {
	return settled(a.Pause(ctx, in.Body.PauseRequest, in.options(in.Body.Reason)))
}

type resumeInput struct {
	Task  string `query:"task"`
	Queue string `query:"queue"`
	repeatable
	Reason string `query:"reason"`
}

func apiResume(ctx context.Context, a *Admin, in *resumeInput) (*Outcome, error) {
	return settled(a.Resume(ctx, PauseRequest{Task: in.Task, Queue: in.Queue}, in.options(in.Reason)))
}

type listCrontabsInput struct{ pageInput }

func apiListCrontabs(ctx context.Context, a *Admin, in *listCrontabsInput) (*CrontabList, error) {
	return a.Crontabs(ctx, NamePage{After: in.After, Size: in.Limit})
}

type crontabInput struct {
	Identifier string `path:"id"`
}

func apiExplainCrontab(ctx context.Context, a *Admin, in *crontabInput) (*CronExplanation, error) {
	return a.WhyCron(ctx, in.Identifier)
}

type triggerInput struct {
	crontabInput
	repeatable

	Body reasoned `body:"*"`
}

func apiTriggerCrontab(ctx context.Context, a *Admin, in *triggerInput) (*Outcome, error) {
	return settled(a.TriggerCron(ctx, in.Identifier, in.options(in.Body.Reason)))
}
