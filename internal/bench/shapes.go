package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// bulkBatch is how many jobs a bulk insert inserts at a time.
const bulkBatch = 1000

// shape is something to measure: all systems that take part do the same, in turns.
type shape struct {
	group string // as in -shapes
	title string
	main  metric // the one that is compared first, and shown while it runs
	takes func(system) bool
	// once makes one run, and checks that nothing was lost and nothing came twice.
	once  func(context.Context, system) (sample, error)
	goals []goal
}

// goal is what a metric of ours has to be, as a share of the floor's, or by itself if there is no floor.
type goal struct {
	metric metric
	floor  string
	sense  sense // "": to know, not to reach
	value  float64
}

type sense string

const (
	atLeast sense = "≥"
	atMost  sense = "≤"
)

func takesPart[T any](s system) bool {
	_, ok := s.(T)
	return ok
}

func (l *lab) shapes() []shape {
	shapes := []shape{l.workShape()}
	for _, callers := range []int{1, 10, 100} {
		shapes = append(shapes, l.enqueueShape(callers))
	}
	shapes = append(shapes, l.bulkShape(), l.latencyShape(), l.memoryShape())
	shapes = append(shapes, l.serialShapes()...)
	return append(shapes, l.floodShapes()...)
}

func (l *lab) workShape() shape {
	return shape{
		group: shapeWork, title: fmt.Sprintf("work off %s no-op jobs", thousands(float64(l.opts.jobs))), main: rate,
		takes: takesPart[worksJobs],
		once: func(ctx context.Context, s system) (sample, error) {
			if err := s.reset(ctx, l.opts.jobs); err != nil {
				return nil, err
			}
			got, err := s.(worksJobs).work(ctx, l.opts.jobs)
			if err != nil {
				return nil, err
			}
			return got, left(ctx, s, 0)
		},
		goals: []goal{
			{rate, floorOneConsumer, atLeast, 0.7},
			{rate, floorFourConsumers, "", 0},
			{cpu, floorOneConsumer, "", 0},
			{serverCPU, floorOneConsumer, "", 0},
			{wal, floorOneConsumer, "", 0},
		},
	}
}

func (l *lab) enqueueShape(callers int) shape {
	s := shape{
		group: shapeEnqueue, title: "enqueue one by one, callers: " + strconv.Itoa(callers), main: rate,
		takes: takesPart[enqueuesOne],
		once: func(ctx context.Context, s system) (sample, error) {
			if err := s.reset(ctx, 0); err != nil {
				return nil, err
			}
			stop, err := l.listen(ctx)
			if err != nil {
				return nil, err
			}
			defer stop()
			got, jobs, err := s.(enqueuesOne).enqueue(ctx, callers, l.opts.seconds)
			if err != nil {
				return nil, err
			}
			return got, left(ctx, s, jobs)
		},
	}
	notify := goal{metric: rate, floor: floorInsertNotify}
	switch callers {
	case 1:
		notify.sense, notify.value = atLeast, 0.8
	case 10:
		notify.sense, notify.value = atLeast, 2
	}
	s.goals = []goal{notify, {rate, floorInsertOnly, "", 0}, {p50, floorInsertNotify, "", 0}, {p99, floorInsertNotify, "", 0}}
	return s
}

func (l *lab) bulkShape() shape {
	return shape{
		group: shapeBulk, title: fmt.Sprintf("enqueue %s jobs, %s at a time", thousands(float64(l.opts.jobs)), thousands(bulkBatch)), main: rate,
		takes: takesPart[enqueuesMany],
		once: func(ctx context.Context, s system) (sample, error) {
			if err := s.reset(ctx, 0); err != nil {
				return nil, err
			}
			stop, err := l.listen(ctx)
			if err != nil {
				return nil, err
			}
			defer stop()
			got, err := s.(enqueuesMany).bulk(ctx, l.opts.jobs)
			if err != nil {
				return nil, err
			}
			return got, left(ctx, s, l.opts.jobs)
		},
		goals: []goal{{rate, floorUnnestName, atLeast, 0.6}, {rate, floorCopyName, "", 0}},
	}
}

func (l *lab) latencyShape() shape {
	return shape{
		group: shapeLatency, title: "commit to start of handler", main: p50,
		takes: takesPart[wakes],
		once: func(ctx context.Context, s system) (sample, error) {
			if err := s.reset(ctx, 0); err != nil {
				return nil, err
			}
			got, err := s.(wakes).latency(ctx, l.opts.latency)
			if err != nil {
				return nil, err
			}
			return got, left(ctx, s, 0)
		},
		goals: []goal{
			{p50, floorWakeName, atMost, 2},
			{p99, floorWakeName, "", 0},
			{p99, "", atMost, 10},
			{p50, floorAfterName, "", 0},
			{p50, floorNotifyName, "", 0},
		},
	}
}

func (l *lab) memoryShape() shape {
	return shape{
		group: shapeMemory, title: fmt.Sprintf("a worker's memory, %s jobs waiting", thousands(float64(l.opts.waiting))), main: peakRSS,
		takes: takesPart[holdsMemory],
		once: func(ctx context.Context, s system) (sample, error) {
			if err := s.reset(ctx, l.opts.waiting); err != nil {
				return nil, err
			}
			return s.(holdsMemory).memory(ctx, l.opts.waiting, l.opts.working)
		},
		goals: []goal{{peakRSS, "", atMost, 50}},
	}
}

// left checks how many jobs are left.
func left(ctx context.Context, s system, want int) error {
	got, err := s.waiting(ctx)
	if err == nil && got != want {
		err = fmt.Errorf("WRONG: %d jobs are left, want %d", got, want)
	}
	return err
}

// result is what the runs of a shape measured.
type result struct {
	Title   string            `json:"title"`
	Systems []string          `json:"systems"`
	Samples map[string]runs   `json:"samples"` // by system
	Medians map[string]sample `json:"medians"`
	goals   []goal
}

// runs are the samples of one system in one shape, in their order.
type runs []sample

// slow is how long a peer may take for a run, and have others.
const slow = 20 * time.Second

// run makes all runs of a shape: the systems in turns, so that whatever changes on the machine meanwhile meets all of them.
func (l *lab) run(ctx context.Context, shape shape) (result, error) {
	r := result{Title: shape.title, Samples: map[string]runs{}, Medians: map[string]sample{}, goals: shape.goals}
	var systems []system
	for _, s := range l.systems() {
		if shape.takes(s) {
			systems = append(systems, s)
			r.Systems = append(r.Systems, s.name())
		}
	}
	tooSlow := map[string]bool{}
	for i := range l.opts.runs {
		for _, s := range systems {
			if tooSlow[s.name()] {
				continue
			}
			started := time.Now()
			got, err := shape.once(ctx, s)
			if err != nil {
				return r, fmt.Errorf("%s: %w", s.name(), err)
			}
			if err := l.printStatements(ctx, os.Stderr); err != nil {
				return r, err
			}
			r.Samples[s.name()] = append(r.Samples[s.name()], got)
			tooSlow[s.name()] = isPeer(s) && time.Since(started) > slow
			fmt.Fprintf(os.Stderr, "%s: %d/%d %s: %s %s\n", shape.title, i+1, l.opts.runs, s.name(), number(got[shape.main]), shape.main)
			if n, ok := got[leftOver]; ok {
				fmt.Fprintf(os.Stderr, "  it did not finish: %s jobs left\n", number(n))
			}
		}
	}
	for name, samples := range r.Samples {
		r.Medians[name] = samples.medians()
	}
	return r, nil
}
