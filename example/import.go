package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/example/tasks"
)

// runImport imports people, and works their jobs beside the other workers, if there are any, until
// none is left.
func runImport(ctx context.Context, db *database, cfg config, people []subscriber, out, errOut io.Writer) error {
	var jobs []int64
	rows := 0
	show := newProgress(errOut, "import", len(people))
	for batch := range slices.Chunk(people, 1000) {
		added, err := importBatch(ctx, db, batch)
		if err != nil {
			return fmt.Errorf("import stopped after %d of %d rows; run it again for the others: %w", rows, len(people), err)
		}
		rows, jobs = rows+len(batch), append(jobs, added...)
		show(rows)
	}
	fmt.Fprintf(out, "\n%d subscribers imported, %d were there before\n", len(jobs), rows-len(jobs))
	if len(jobs) == 0 {
		return nil
	}
	workshop, err := newWorkshop(db, cfg.smtpAddr, out)
	if err != nil {
		return err
	}
	defer workshop.close(out)
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		defer stop()
		ended <- workshop.Run(working)
	}()
	left, tick := jobs, time.Tick(250*time.Millisecond)
	show = newProgress(errOut, "mail", len(jobs))
	for len(left) > 0 && working.Err() == nil && err == nil {
		select {
		case <-working.Done():
		case <-tick:
		}
		left, err = unfinished(context.WithoutCancel(ctx), db, left)
		show(len(jobs) - len(left))
	}
	stop()
	err = errors.Join(err, <-ended)
	left, lookErr := unfinished(context.WithoutCancel(ctx), db, left)
	if len(left) > 0 {
		fmt.Fprintf(out, "\n%d mails are not sent yet; their jobs wait for the next worker:\n  go run ./example -role worker\n", len(left))
	}
	return errors.Join(err, lookErr)
}

// importBatch stores those who are new and enqueues their welcome mail, in one transaction. It
// returns the ids of the jobs.
func importBatch(ctx context.Context, db *database, people []subscriber) (jobs []int64, err error) {
	var names, emails []string
	for _, person := range people {
		names, emails = append(names, person.Name), append(emails, person.Email)
	}
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			insert into backfill_example.subscribers (name, email)
			select name, email from unnest($1::text[], $2::text[]) as people (name, email)
			on conflict (email) do nothing
			returning id`, names, emails)
		if err != nil {
			return err
		}
		welcome, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (args tasks.WelcomeArgs, err error) {
			return args, row.Scan(&args.SubscriberID)
		})
		if err != nil {
			return err
		}
		// They did not ask for tips, and must not keep those waiting who sign up on the page
		// meanwhile.
		enqueued, err := tasks.NewClient(db.client).WithTx(tx).EnqueueSendWelcomeMany(ctx, welcome, backfill.PriorityBulkLow)
		for _, job := range enqueued {
			jobs = append(jobs, job.ID)
		}
		return err
	})
	return jobs, err
}

// unfinished returns those of the jobs that may still run, here or in another worker.
func unfinished(ctx context.Context, db *database, jobs []int64) ([]int64, error) {
	rows, err := db.pool.Query(ctx, `
		select id from backfill_example.jobs
		where id = any($1) and (attempts < max_attempts or locked_at is not null)`, jobs)
	if err != nil {
		return jobs, fmt.Errorf("look for jobs: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
