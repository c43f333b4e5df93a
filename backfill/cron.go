package backfill

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/backfillhq/go/internal/crontab"
	"github.com/backfillhq/go/internal/worker"
)

// Cron schedules the task of the [Handle] that it is given to. Line is a line of a Graphile Worker
// crontab without the task's name: five time fields in UTC, optional ?options, and an optional
// {payload}, which has to fit the task's args:
//
//	0 4 * * *
//	*/15 9-17 * * 1-5 ?fill=1d&queue=reports&priority=5 {"format": "pdf"}
//	0 8 * * * ?tz=Europe/Berlin
//
// Every worker that has the task schedules it, but each tick is enqueued only once. The options
// are:
//
//   - id: the name under which ticks are recorded. Default: the task's name, so a second line of a
//     task needs an id.
//   - fill: how far back to make up for ticks that were missed while no worker ran. Default: not at
//     all.
//   - max (attempts), queue, jobKey, jobKeyMode, priority: the values of the job. Default: those of
//     the task.
//   - tz: the time zone of the time fields. Each local minute runs once: one that is skipped in
//     spring runs at the end of the gap, one that is repeated in autumn runs the first time. Node
//     workers do not know this option.
//
// Generated code passes the lines of //backfill:cron. A wrong line is a start-up error.
func Cron(line string) HandleOption { return cronOption(line) }

type cronOption string

func (o cronOption) applyToHandler(h *handler) {
	entry, problems := crontab.ParseSchedule(string(o), h.name, crontab.Position{Line: 1, Column: 1})
	for _, problem := range problems {
		h.fault(fmt.Errorf("crontab line %q, column %d: %s", string(o), problem.Pos.Column, problem.Message))
	}
	if len(problems) == 0 {
		h.crontab = append(h.crontab, worker.CronEntry{Entry: entry})
	}
}

// applyTask fills in, from the task's descriptor, what the crontab lines of a task leave out.
func applyTask[T any](h *handler, t *Task[T]) {
	for i := range h.crontab {
		entry := &h.crontab[i]
		payload := worker.CronPayload(entry.Payload, time.Time{}, false)
		args, err := decodeArgs[T](&Job{Task: t.Name, Args: payload})
		if err != nil {
			h.fault(fmt.Errorf("crontab line of %q: its payload, to which _cron is added, does not fit the task: %w", entry.Identifier, err))
			continue
		}
		var line []EnqueueOption
		if entry.Key != "" {
			line = append(line, Key(entry.Key))
		}
		if entry.Queue != "" {
			line = append(line, Queue(entry.Queue))
		}
		r := t.Request(args, line...)
		r.Args = payload
		if err := r.Validate(); err != nil && len(checkTask(t)) == 0 { // the database would refuse every tick
			h.fault(fmt.Errorf("crontab line of %q: %w", entry.Identifier, err))
			continue
		}
		entry.Queue, entry.MaxAttempts, entry.Flags = cmp.Or(entry.Queue, r.Queue), cmp.Or(entry.MaxAttempts, int16(r.MaxAttempts)), r.Flags //nolint:gosec // checked with the task
		if entry.Priority == nil {
			priority := int16(r.Priority)
			entry.Priority = &priority
		}
		entry.Key, entry.KeyMode = r.Key, cmp.Or(entry.KeyMode, string(r.KeyMode))
	}
}

// WithCrontab schedules jobs by a Graphile Worker crontab, for tasks in any language. Each line has
// five time fields in UTC, a task, optional ?options and an optional {payload}. The option tz is an
// error here, because Node workers, which may run the same crontab, do not know it: see [Cron].
// [Worker.RunOnce] schedules nothing. Default: the lines of the registry's tasks only.
func WithCrontab(text string) WorkerOption {
	return workerOption(func(c *workerConfig) { c.addCrontab("WithCrontab: ", text) })
}

// WithCrontabFile is [WithCrontab] for a file, which is read once. Default: no file.
func WithCrontabFile(path string) WorkerOption {
	return workerOption(func(c *workerConfig) {
		text, err := os.ReadFile(path)
		if err != nil {
			c.check("WithCrontabFile", err)
			return
		}
		c.addCrontab(path+":", string(text))
	})
}

func (c *workerConfig) addCrontab(where, text string) {
	entries, problems := crontab.Parse(text)
	for _, problem := range problems {
		c.problems = append(c.problems, fmt.Errorf("%s%w", where, problem))
	}
	for _, entry := range entries {
		c.require(entry.Zone == nil, "%s%v: option tz is not for crontabs that Node workers could run, and refuse: "+
			"use //backfill:cron or backfill.Cron", where, entry.ZonePos)
		c.crontab = append(c.crontab, worker.CronEntry{Entry: entry})
	}
}

// schedule returns the crontab of a worker: the lines of its registry's tasks and of its options.
func (c *workerConfig) schedule(r *Registry) ([]worker.CronEntry, error) {
	var entries []worker.CronEntry
	if r == nil {
		return nil, nil // reported with the registry
	}
	for _, h := range r.handlers {
		entries = append(entries, h.crontab...)
	}
	entries = append(entries, c.crontab...)
	var problems []error
	for i, entry := range entries {
		first := slices.IndexFunc(entries[:i], func(e worker.CronEntry) bool { return e.Identifier == entry.Identifier })
		if first >= 0 {
			problems = append(problems, fmt.Errorf("two crontab lines have the identifier %q, for the tasks %q and %q: give one of them another with ?id=",
				entry.Identifier, entries[first].Task, entry.Task))
		}
	}
	return entries, errors.Join(problems...)
}

// cronTick returns the tick that enqueued a job with this payload, or nil.
func cronTick(payload json.RawMessage) *CronTick {
	if !bytes.Contains(payload, []byte(`"_cron"`)) {
		return nil
	}
	var cron struct {
		Tick *CronTick `json:"_cron"`
	}
	if json.Unmarshal(payload, &cron) != nil {
		return nil
	}
	return cron.Tick
}
