package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/backfillhq/go/backfill"
)

// jobInput names a job.
type jobInput struct {
	JobID int64 `path:"id"`
}

// jobChange is the body of a change of a job.
type jobChange struct {
	reasoned

	Seen *JobVersion `json:"seen,omitzero"` // how it was when it was seen: it is left as it is if it is not so any more
}

// seenInput is jobChange as a query.
type seenInput struct {
	Reason    string     `query:"reason"`
	Revision  *int       `query:"seen_revision"`
	Attempts  *int       `query:"seen_attempts"`
	UpdatedAt *time.Time `query:"seen_updated_at"`
}

func (in *seenInput) seen() *JobVersion {
	v := &JobVersion{Revision: in.Revision, Attempts: in.Attempts}
	if in.UpdatedAt != nil {
		v.UpdatedAt = *in.UpdatedAt
	}
	return v
}

type rescheduleBody struct {
	jobChange
	Reschedule
}

type editBody struct {
	jobChange

	Payload json.RawMessage `json:"payload"` // what is hidden in it stays as it is
}

// NewJob is the body of a request that enqueues a job. Its fields are those of backfill.Request.
type NewJob struct {
	reasoned

	Task        string          `json:"task"`
	Payload     json.RawMessage `json:"payload,omitzero"`
	Queue       string          `json:"queue,omitzero"`
	Key         string          `json:"key,omitzero"`
	KeyMode     string          `json:"key_mode,omitzero"`
	Priority    int             `json:"priority,omitzero"`
	MaxAttempts *int            `json:"max_attempts,omitzero"`
	RunAt       *time.Time      `json:"run_at,omitzero"`
	Flags       []string        `json:"flags,omitzero"`
}

func (n *NewJob) request() (backfill.Request, error) {
	r := backfill.Request{
		Task: n.Task, Args: n.Payload, Queue: n.Queue, Key: n.Key, KeyMode: backfill.KeyMode(n.KeyMode), Priority: backfill.Priority(n.Priority) /* checked */, Flags: n.Flags,
	}
	var problems []error
	if n.MaxAttempts != nil {
		if r.MaxAttempts = *n.MaxAttempts; r.MaxAttempts == 0 { // which stands for the default there
			problems = append(problems, errors.New("max_attempts is 0: want 1 to 32767"))
		}
	}
	if n.Priority < math.MinInt16 || n.Priority > math.MaxInt16 {
		problems = append(problems, fmt.Errorf("priority is %d: want %d to %d", n.Priority, math.MinInt16, math.MaxInt16))
	}
	if n.RunAt != nil {
		r.RunAt = *n.RunAt
	}
	if len(problems) > 0 {
		return r, invalid(errors.Join(append(problems, r.Validate())...))
	}
	return r, nil
}

// enqueueUnlessRunning is EnqueueJob, and tells if nothing came of it, because unsafe_dedupe has kept a
// job with the same key that runs.
func (a *Admin) enqueueUnlessRunning(ctx context.Context, request backfill.Request, options ChangeOptions) (*Outcome, error) {
	runs := int64(0)
	if request.KeyMode == backfill.UnsafeDedupe && request.Key != "" {
		list, err := a.Jobs(ctx, JobFilter{Keys: []string{request.Key}, States: []JobState{JobRunning}}, JobPage{})
		if err != nil {
			return nil, err
		}
		if len(list.Jobs) > 0 {
			runs = list.Jobs[0].ID
		}
	}
	outcome, err := settled(a.EnqueueJob(ctx, request, options))
	if err == nil && outcome.JobID == runs {
		return nil, &apiError{
			status: http.StatusConflict, code: "JOB_ALREADY_IN_PROGRESS", text: fmt.Sprintf("job %d has the key, and runs: unsafe_dedupe keeps it, and nothing was enqueued", runs),
		}
	}
	return outcome, err
}

type listJobsInput struct {
	pageInput
	Oldest    bool `query:"oldest"` // those with the smallest ids first
	JobFilter `query:"*"`
}

func apiListJobs(ctx context.Context, a *Admin, in *listJobsInput) (*JobList, error) {
	return a.Jobs(ctx, in.JobFilter, JobPage{After: in.After, Size: in.Limit, Oldest: in.Oldest})
}

type enqueueInput struct {
	repeatable
	Body NewJob `body:"*"`
}

func apiEnqueue(ctx context.Context, a *Admin, in *enqueueInput) (*Outcome, error) {
	request, err := in.Body.request()
	if err != nil {
		return nil, err
	}
	return a.enqueueUnlessRunning(ctx, request, in.options(in.Body.Reason))
}

func apiShowJob(ctx context.Context, a *Admin, in *jobInput) (*Job, error) {
	return a.Job(ctx, in.JobID)
}

func apiExplainJob(ctx context.Context, a *Admin, in *jobInput) (*Explanation, error) {
	return a.Why(ctx, in.JobID)
}

func apiListAttempts(ctx context.Context, a *Admin, in *jobInput) (*History, error) {
	return a.History(ctx, in.JobID)
}

// ProgressAnswer says how far a job is.
type ProgressAnswer struct {
	_ [0]func() // fields may be added

	// Progress is nil if the job does not run, or its handler has not said anything in this attempt.
	Progress *Progress `json:"progress,omitempty"`
}

func apiShowProgress(ctx context.Context, a *Admin, in *jobInput) (*ProgressAnswer, error) {
	progress, err := a.Progress(ctx, in.JobID)
	return &ProgressAnswer{Progress: progress}, err
}

type retryJobInput struct {
	jobInput
	repeatable
	Body jobChange `body:"*"`
}

func apiRetryJob(ctx context.Context, a *Admin, in *retryJobInput) (*Outcome, error) {
	return settled(a.RetryJob(ctx, in.JobID, in.Body.Seen, in.options(in.Body.Reason)))
}

type cancelJobInput struct {
	jobInput
	repeatable
	seenInput
}

func apiCancelJob(ctx context.Context, a *Admin, in *cancelJobInput) (*Outcome, error) {
	return settled(a.CancelJob(ctx, in.JobID, in.seen(), in.options(in.Reason)))
}

type deleteJobInput struct {
	jobInput
	repeatable
	seenInput
}

func apiDeleteJob(ctx context.Context, a *Admin, in *deleteJobInput) (*Outcome, error) {
	return settled(a.DeleteJob(ctx, in.JobID, in.seen(), in.options(in.Reason)))
}

type rescheduleJobInput struct {
	jobInput
	repeatable
	Body rescheduleBody `body:"*"`
}

func apiRescheduleJob(ctx context.Context, a *Admin, in *rescheduleJobInput) (*Outcome, error) {
	return settled(a.RescheduleJob(ctx, in.JobID, in.Body.Reschedule, in.Body.Seen, in.options(in.Body.Reason)))
}

type editJobInput struct {
	jobInput
	repeatable
	Body editBody `body:"*"`
}

func apiEditJob(ctx context.Context, a *Admin, in *editJobInput) (*Outcome, error) {
	return settled(a.EditJob(ctx, in.JobID, in.Body.Payload, in.Body.Seen, in.options(in.Body.Reason)))
}
