// Package dev runs sample traffic on a database that nobody needs: jobs that succeed, are retried,
// fail for good, wait and are scheduled, so that there is something to look at.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/backfillhq/go/backfill"
)

// Options says where the traffic goes.
type Options struct {
	DatabaseURL string // of a database without a queue; "": a private server
	Keep        string // the folder where a private server keeps its data; "": it keeps none
}

// Sample is what was started, and ids of jobs to ask about.
type Sample struct {
	DatabaseURL string      `json:"database_url"`
	Schema      string      `json:"schema"`
	Private     bool        `json:"private"` // the server is our own
	Jobs        []SampleJob `json:"jobs"`
}

// SampleJob is a job in a state that it keeps for a while.
type SampleJob struct {
	ID    int64  `json:"id"`
	Task  string `json:"task"`
	State string `json:"state"`
}

const (
	// patience is how long the first sample job may take to start.
	patience = 30 * time.Second
	// reportEvery is how often progress is told.
	reportEvery = 10 * time.Second
)

// Run starts everything, calls started, and goes on until ctx ends, which is no error. Progress is
// written to out, if it is not nil, and what goes wrong to notes.
func Run(ctx context.Context, options Options, out, notes io.Writer, started func(Sample) error) (err error) {
	p, err := open(ctx, options, notes)
	if err != nil {
		return ended(ctx, err)
	}
	defer func() { err = errors.Join(err, p.close(ctx)) }()
	sample, err := seed(ctx, p)
	if err != nil {
		return ended(ctx, err)
	}
	exporting := make(chan int64, 1)
	var tally tally
	worker, err := p.client.NewWorker(registry(), backfill.WithConcurrency(10), backfill.WithDrainTimeout(time.Second),
		backfill.WithObserver(tally.observe), backfill.WithObserver(firstExport(exporting)))
	if err != nil {
		return err
	}
	parts := []func(context.Context) error{
		worker.Run,
		func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(patience):
				return fmt.Errorf("the worker has started no job within %v", patience)
			case id := <-exporting:
				sample.Jobs = append([]SampleJob{{id, exportReport.Name, "runs"}}, sample.Jobs...)
			}
			if err := started(sample); err != nil {
				return err
			}
			return traffic(ctx, p.client, notes)
		},
	}
	if out != nil {
		parts = append(parts, func(ctx context.Context) error { return tally.report(ctx, out) })
	}
	return ended(ctx, together(ctx, parts))
}

// ended takes what fails because ctx has ended for the end that it is.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // somebody has stopped it
	}
	return err
}

// together runs parts until ctx ends or one of them fails, and waits for all.
func together(ctx context.Context, parts []func(context.Context) error) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ends := make(chan error)
	for _, part := range parts {
		go func() { ends <- part(ctx) }()
	}
	for range parts {
		if end := <-ends; ctx.Err() == nil && end != nil {
			err = end
		}
		stop()
	}
	return err
}

// seed makes a job for each state that lasts. A first export, which comes before the one of the
// sample, is what runs.
func seed(ctx context.Context, p *place) (Sample, error) {
	sample := Sample{DatabaseURL: p.url, Schema: p.schema, Private: p.server != nil}
	requests := []struct {
		state string
		backfill.Request
	}{
		{"waits for its queue", exportReport.Request(reportArgs{"2026-10"})},
		{"is paused", sendSMS.Request(smsArgs{"+49 30 901820"})},
		{"is scheduled", sendEmail.Request(emailArgs{"ada@example.com", "Your week"}, backfill.Delay(3*time.Hour))},
		{"has no worker", resizeVideo.Request(resizeArgs{"intro.mp4"})},
		{"fails for good", chargeCard.Request(cardArgs{Order: 4711, Cents: declinedAmount})},
		{"uses up its attempts", syncAccount.Request(syncArgs{goneAccount})},
	}
	all := []backfill.Request{exportReport.Request(reportArgs{"2026-09"})}
	for i := range requests {
		all = append(all, requests[i].Request)
	}
	jobs, err := p.client.Enqueue(ctx, all...)
	if err != nil {
		return sample, err
	}
	for i, job := range jobs[1:] {
		sample.Jobs = append(sample.Jobs, SampleJob{job.ID, job.Task, requests[i].state})
	}
	// Before the worker starts, and after the job is there: a task that nobody knows is not paused.
	pause := backfill.PauseOptions{By: "ada", Reason: "the provider sends each message twice"}
	return sample, p.client.Pause(ctx, sendSMS.Name, pause)
}

// firstExport passes the id of the first export that starts. In a folder that was kept it is one of
// an earlier run.
func firstExport(started chan<- int64) backfill.Observer {
	return func(e backfill.Event) {
		if e.Kind != backfill.EventStart || e.Job.Task != exportReport.Name {
			return
		}
		select {
		case started <- e.Job.ID:
		default: // it was not the first
		}
	}
}
