//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/backfillhq/go/backfill"
)

// A doomed job fails for good on purpose, so that a dead letter is to be left. A process requeues a
// part of them again and again, until their time has come: then some are done, and the others given
// up.

// fate is what is to become of a doomed job.
type fate string

const (
	fateDead  fate = "dead"  // nobody requeues it
	fateMend  fate = "mend"  // it is requeued until it is due, and done then
	fateAgain fate = "again" // it is requeued until it is due, and fails for good then
)

var fates = []fate{fateDead, fateMend, fateMend, fateAgain}

// exhaustedAfter is how many attempts it takes where the handler does not say that it is permanent.
const exhaustedAfter = 2

var (
	taskPermanent = &backfill.Task[args]{Name: "permanent"}
	taskExhausted = &backfill.Task[args]{Name: "exhausted", MaxAttempts: exhaustedAfter, Backoff: backfill.FixedBackoff(500 * time.Millisecond)}
	doomedTasks   = []string{taskPermanent.Name, taskExhausted.Name}
)

// doomed reports whether a job of the kind fails for good on purpose. The kind is the reason that
// its dead letter has to have.
func (k kind) doomed() bool { return k == kindPermanent || k == kindExhausted }

// doomedFor is how long it may be until a job is mended or given up.
const doomedFor = 15 * time.Second

// doomed enqueues doomed jobs, of which half have a key.
func (e *enqueuer) doomed(t *backfill.Task[args], k kind) func(*source) func(context.Context) error {
	return func(s *source) func(context.Context) error {
		return func(ctx context.Context) error {
			ctx, cancel := withDeadline(ctx, s)
			defer cancel()
			a := args{
				Kind: k, Fate: fates[s.random.IntN(len(fates))], Work: s.random.IntN(3),
				Due: time.Now().Add(time.Duration(s.random.Int64N(int64(doomedFor)))).UnixMicro(),
			}
			var options []backfill.EnqueueOption
			if s.random.IntN(2) == 0 {
				a.Key = fmt.Sprintf("%s-%d-%d", s.name, e.spec.Proc, a.Due)
				options = append(options, backfill.Key(a.Key))
			}
			return e.offers.make(ctx, record{Kind: k, Key: a.Key, Text: string(a.Fate)}, 1, func(ctx context.Context, n int64) error {
				a.N = n
				_, err := backfill.Enqueue(ctx, e.client, t, a, options...)
				return err
			})
		}
	}
}

var (
	errRequeue = errors.New("fails for good on purpose, and is to be requeued")
	errGivenUp = errors.New("fails for good on purpose")
)

func (h *handlers) doomed(ctx context.Context, a args) error {
	return h.run(ctx, record{N: a.N, Kind: a.Kind}, func(ctx context.Context) error {
		if err := work(ctx, a.Work); err != nil {
			return err
		}
		err := errGivenUp
		switch due := now() >= a.Due; {
		case a.Fate == fateMend && due:
			return nil
		case a.Fate != fateDead && !due:
			err = errRequeue
		}
		if a.Kind == kindPermanent {
			return backfill.Permanent(err)
		}
		return err
	})
}

const (
	requeueEvery = 500 * time.Millisecond
	// requeueAfter is how long a dead letter is left alone.
	requeueAfter = time.Second
	// requeuePage is how many are requeued by their ids.
	requeuePage = 20
)

// runRequeuer is the main function of the process that requeues dead letters, as an operator's
// script would: now by a filter, now by the ids of a list.
func runRequeuer(ctx context.Context, spec childSpec, log *journal) error {
	client, err := backfill.Open(ctx, spec.URL)
	if err != nil {
		return err
	}
	defer client.Close()
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s %d", spec.Name, spec.Proc)
	s := &source{random: rand.New(rand.NewPCG(spec.Seed, hash.Sum64()))} //nolint:gosec // a schedule that can be repeated is wanted
	for pause(ctx, requeueEvery) == nil {
		log.write(record{Op: opRequeuing})
		answer := record{Op: opReturned}
		if err := requeue(context.WithoutCancel(ctx), client, s, log); err != nil {
			answer = record{Op: opBroke, Text: err.Error()}
		}
		log.write(answer)
	}
	return nil
}

func requeue(ctx context.Context, client *backfill.Client, s *source, log *journal) error {
	ctx, cancel := withDeadline(ctx, s)
	defer cancel()
	filter := backfill.DeadLetterFilter{
		Tasks: doomedTasks, ErrorContains: errRequeue.Error(), FailedBefore: time.Now().Add(-requeueAfter),
	}
	if s.random.IntN(2) == 0 {
		list, err := client.DeadLetters(ctx, filter, backfill.DeadLetterPage{Size: requeuePage})
		if err != nil || len(list.Letters) == 0 {
			return err
		}
		for _, d := range list.Letters {
			filter.IDs = append(filter.IDs, d.ID)
		}
		slices.Sort(filter.IDs)
	}
	_, err := client.RequeueDeadLetters(ctx, filter, backfill.DeadLetterOptions{Each: func(o backfill.DeadLetterOutcome) {
		log.write(record{Op: opRequeued, N: o.ID, Job: o.JobID, Text: string(o.Skip)})
	}})
	return err
}
