package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	floorWakeName   = "floor: listen and claim 1"
	floorAfterName  = "floor: the same, notify after commit"
	floorNotifyName = "floor: NOTIFY alone"
)

// wakeWarmUp jobs run before those that are measured: connections, plans, caches.
const wakeWarmUp = 20

// gap is the time between two jobs: long enough for the system to become idle, and random, so that no timer keeps step with it.
func gap() time.Duration { return 5*time.Millisecond + rand.N(10*time.Millisecond) }

// oneByOne enqueues jobs one by one and returns the time from the commit's acknowledgement to the start of each handler. begun
// sends the time at which each handler started.
func oneByOne(ctx context.Context, jobs int, begun <-chan time.Time, enqueue func(n int) error) (sample, error) {
	took := make([]time.Duration, 0, jobs)
	for n := range wakeWarmUp + jobs {
		time.Sleep(gap())
		if err := enqueue(n); err != nil {
			return nil, fmt.Errorf("enqueue: %w", err)
		}
		acknowledged := time.Now()
		select {
		case started := <-begun:
			if n >= wakeWarmUp {
				took = append(took, started.Sub(acknowledged))
			}
		case <-time.After(10 * time.Second):
			return nil, fmt.Errorf("WRONG: job %d has not started after 10 s", n)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	s := sample{}
	s.percentiles(took)
	return s, nil
}

// floorWake is the shortest way from an insert to a handler: one connection inserts and notifies in one transaction, one listens,
// and one claims a single job as soon as the notification is there. The handler starts as soon as the payload is read; the job is
// deleted when it is done. It does not fold notifications, look for further jobs, keep a pool, or run the handler elsewhere.
//
// With after, another connection notifies once the commit is acknowledged, as ours does, because notifications in transactions
// make all commits of the database wait for each other: what that costs one job that nobody else is in the way of.
type floorWake struct {
	tables
	after bool
}

func (f floorWake) name() string {
	if f.after {
		return floorAfterName
	}
	return floorWakeName
}

func (f floorWake) latency(ctx context.Context, jobs int) (s sample, err error) {
	task, err := taskID(ctx, f.admin)
	if err != nil {
		return nil, err
	}
	conns, disconnect, err := f.connect(ctx, 4)
	if err != nil {
		return nil, err
	}
	defer disconnect()
	inserter, listener, claimer, notifier := conns[0], conns[1], conns[2], conns[3]
	if _, err := listener.Exec(ctx, `listen "jobs:insert"`); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	begun, committed := make(chan time.Time, 1), make(chan struct{}, 1)
	statement := insertNotify
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	repeat := func(step func() error) {
		group.Go(func() {
			for ctx.Err() == nil {
				if err := step(); err != nil {
					cancel(err)
				}
			}
		})
	}
	repeat(func() error { return floorServe(ctx, listener, claimer, task, begun) })
	if f.after {
		statement = insertOnly
		repeat(func() error { return notifyAfter(ctx, notifier, committed) })
	}
	s, err = oneByOne(ctx, jobs, begun, func(n int) error {
		var id int64
		if err := inserter.QueryRow(ctx, statement, task, payload(n)).Scan(&id); err != nil {
			return err
		}
		if f.after {
			committed <- struct{}{}
		}
		return nil
	})
	// The last job is deleted after its handler has started.
	time.Sleep(100 * time.Millisecond)
	cancel(nil)
	group.Wait()
	return s, err
}

// notifyAfter waits for a commit and notifies.
func notifyAfter(ctx context.Context, notifier *pgx.Conn, committed <-chan struct{}) error {
	select {
	case <-committed:
	case <-ctx.Done():
		return nil
	}
	if _, err := notifier.Exec(ctx, "select pg_notify('jobs:insert', $1)", `{"r":0.5,"count":1}`); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// floorServe waits for a notification and works one job.
func floorServe(ctx context.Context, listener, claimer *pgx.Conn, task int32, begun chan<- time.Time) error {
	if _, err := listener.WaitForNotification(ctx); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var id int64
	var got int32
	var payload []byte
	var attempts int16
	if err := claimer.QueryRow(ctx, floorClaimOne, []int32{task}, "floor").Scan(&id, &got, &payload, &attempts); err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	begun <- time.Now()
	if _, err := claimer.Exec(ctx, floorDelete, []int64{id}); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// connect makes connections with the floor's settings.
func (t tables) connect(ctx context.Context, n int) (conns []*pgx.Conn, disconnect func(), err error) {
	disconnect = func() {
		for _, conn := range conns {
			conn.Close(context.WithoutCancel(ctx))
		}
	}
	for range n {
		conn, err := connectFloor(ctx, t.url)
		if err != nil {
			disconnect()
			return nil, nil, err
		}
		conns = append(conns, conn)
	}
	return conns, disconnect, nil
}

// floorNotify is what a notification takes by itself, from before it is sent until another connection has it.
type floorNotify struct{ tables }

func (f floorNotify) name() string { return floorNotifyName }

func (f floorNotify) latency(ctx context.Context, jobs int) (sample, error) {
	conns, disconnect, err := f.connect(ctx, 2)
	if err != nil {
		return nil, err
	}
	defer disconnect()
	sender, listener := conns[0], conns[1]
	if _, err := listener.Exec(ctx, "listen bench"); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	arrived := make(chan time.Time, 1)
	listening, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := listener.WaitForNotification(listening); err != nil {
				return // stopped, or the sender waits in vain and says so
			}
			arrived <- time.Now()
		}
	}()
	defer func() { cancel(); <-ended }()
	took := make([]time.Duration, 0, jobs)
	for n := range wakeWarmUp + jobs {
		time.Sleep(gap())
		sent := time.Now()
		if _, err := sender.Exec(ctx, "notify bench"); err != nil {
			return nil, fmt.Errorf("notify: %w", err)
		}
		select {
		case at := <-arrived:
			if n >= wakeWarmUp {
				took = append(took, at.Sub(sent))
			}
		case <-time.After(10 * time.Second):
			return nil, fmt.Errorf("WRONG: notification %d has not arrived after 10 s", n)
		}
	}
	s := sample{}
	s.percentiles(took)
	return s, nil
}
