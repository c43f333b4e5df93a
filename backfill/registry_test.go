package backfill_test

import (
	"context"
	"fmt"
	"log"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

func ignore(context.Context, mailArgs) error { return nil }

func bind(name string, aliases ...string) backfill.Binding {
	return backfill.Handle(&backfill.Task[mailArgs]{Name: name, Aliases: aliases}, ignore)
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	mail := backfill.NewRegistry(bind("send_email", "email", "mail"), backfill.Require("Handlers.Mailer", true))
	report := backfill.NewRegistry(bind("report"), bind("nightly", "daily"))
	both := backfill.MergeRegistries(mail, report)
	tests := map[string]struct {
		registry *backfill.Registry
		want     []string
	}{
		"one":          {mail, []string{"email", "mail", "send_email"}},
		"merged":       {both, []string{"daily", "email", "mail", "nightly", "report", "send_email"}},
		"only":         {both.Only("nightly", "report"), []string{"daily", "nightly", "report"}},
		"only, twice":  {both.Only("report", "report"), []string{"report"}},
		"merged, only": {backfill.MergeRegistries(both.Only("report"), mail.Only("send_email")), []string{"email", "mail", "report", "send_email"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := backfill.Problems(test.registry); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, backfill.Claimed(test.registry)); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRegistryProblems(t *testing.T) {
	t.Parallel()
	var none func(context.Context, mailArgs) error
	good := backfill.NewRegistry(bind("a", "a_old"), bind("b"))
	tests := map[string]struct {
		registry *backfill.Registry
		want     []string
	}{
		"nil":   {nil, []string{`registry is nil: pass what NewRegistry returns`}},
		"empty": {backfill.NewRegistry(), []string{`registry has no tasks: pass the NewRegistry of a package with tasks, or bind some with Handle`}},
		"requirements": {
			backfill.NewRegistry(backfill.Require("Handlers.A", false), bind("a"), backfill.Require("Handlers.B", false)),
			[]string{
				`Handlers.A is required: set it in what you pass to NewRegistry`,
				`Handlers.B is required: set it in what you pass to NewRegistry`,
			},
		},
		"only a requirement": {
			backfill.NewRegistry(backfill.Require("Handlers.A", false)),
			[]string{`Handlers.A is required: set it in what you pass to NewRegistry`},
		},
		"merged with itself": {
			backfill.MergeRegistries(good, good.Only("a")),
			nil, // the same handler, twice
		},
		"alias of a name": {
			backfill.NewRegistry(bind("a", "b"), bind("b")),
			[]string{`alias "b" of task "a" is the name of another task: leave one out`},
		},
		"alias of two": {
			backfill.NewRegistry(bind("a", "old"), bind("b", "old")),
			[]string{`alias "old" belongs to the tasks "a" and "b": leave it out of one`},
		},
		"alias twice": {
			backfill.NewRegistry(bind("a", "old", "old")),
			[]string{`task "a" has the alias "old" twice: leave one out`},
		},
		"alias of itself": {
			backfill.NewRegistry(bind("a", "a")),
			[]string{`task "a" has its own name as an alias: leave it out`},
		},
		"only": {
			good.Only("a", "c", "a_old"),
			[]string{
				`Only names "c", which is not a task of the registry: it has ["a" "b"]`,
				`Only names "a_old", an alias: name the task "a"`,
			},
		},
		"only nothing":  {good.Only(), []string{`Only has no names: name the tasks that this worker runs`}},
		"only of nil":   {(*backfill.Registry)(nil).Only("a"), []string{`registry is nil: pass what NewRegistry returns`}},
		"merge of none": {backfill.MergeRegistries(), []string{`registry has no tasks: pass the NewRegistry of a package with tasks, or bind some with Handle`}},
		"merge of nil":  {backfill.MergeRegistries(good, nil), []string{`argument 2 of MergeRegistries is nil: pass what NewRegistry returns`}},
		"of dropped tasks": {
			backfill.NewRegistry(
				backfill.Require("Handlers.A", false, "a", "b"), backfill.Require("Handlers.C", false, "c"), backfill.Require("Handlers.D", false, "d", "c"),
				bind("a"), bind("b"), bind("c"), backfill.Handle(&backfill.Task[mailArgs]{Name: "d", Timeout: -1}, none),
			).Only("b"),
			[]string{`Handlers.A is required: set it in what you pass to NewRegistry`},
		},
		"of no dropped tasks": {
			backfill.MergeRegistries(
				backfill.NewRegistry(backfill.Require("Handlers.A", false, "a"), bind("a")),
				backfill.NewRegistry(backfill.Require("Handlers.B", true, "b"), bind("b")),
			).Only("a", "b").Only("b"),
			nil,
		},
		"of all tasks": {
			backfill.NewRegistry(backfill.Require("Handlers.A", false, "a"), backfill.Require("Handlers.B", false, "b"), bind("a"), bind("b")),
			[]string{
				`Handlers.A is required: set it in what you pass to NewRegistry`,
				`Handlers.B is required: set it in what you pass to NewRegistry`,
			},
		},
		"clash with a dropped task": {
			backfill.NewRegistry(bind("a", "b", "old", "old"), bind("b")).Only("b"),
			[]string{
				`alias "b" of task "a" is the name of another task: leave one out`,
				`task "a" has the alias "old" twice: leave one out`,
			},
		},
		"clash of a kept task": {
			backfill.NewRegistry(bind("a", "old", "old"), bind("b")).Only("a"),
			[]string{`task "a" has the alias "old" twice: leave one out`},
		},
		"kept by Only and Merge": {
			backfill.MergeRegistries(backfill.NewRegistry(bind("a"), backfill.Require("Handlers.A", false)).Only("a"), backfill.NewRegistry(bind("b"))),
			[]string{`Handlers.A is required: set it in what you pass to NewRegistry`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			if err := backfill.Problems(test.registry); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// Two packages can have a task of one name: the error says where both are.
func TestBoundTwiceSaysWhere(t *testing.T) {
	t.Parallel()
	task := &backfill.Task[mailArgs]{Name: "a"}
	one := backfill.NewRegistry(backfill.Handle(task, ignore))
	_, file, line, _ := runtime.Caller(0)
	two := func() *backfill.Registry { return backfill.NewRegistry(backfill.Handle(task, ignore)) }()
	place := func(line int) string {
		return fmt.Sprintf("github.com/backfillhq/go/backfill_test (%s:%d)", filepath.Base(file), line)
	}
	wantError(t, backfill.Problems(backfill.MergeRegistries(one, two)), fmt.Sprintf(
		`task "a" is bound twice, in %s and in %s: bind it once, or give one of the two another name`, place(line-1), place(line+1)))
}

// Every bad value of a descriptor is reported, all at once.
func TestHandleProblems(t *testing.T) {
	t.Parallel()
	bad := &backfill.Task[mailArgs]{
		Name: strings.Repeat("x", 129), Aliases: []string{"", "a\x00"}, KeyMode: "merge", MaxAttempts: 40_000, Delay: -1, Timeout: -1,
		Flags: []string{""}, Backoff: backfill.ExponentialBackoff(0, 0, 0),
	}
	var none func(context.Context, mailArgs) error
	err := backfill.Problems(backfill.NewRegistry(
		backfill.Handle(bad, none, backfill.BackoffFunc(nil), nil),
		backfill.Handle((*backfill.Task[mailArgs])(nil), ignore),
	))
	task := `task "` + strings.Repeat("x", 64) + `"…: `
	want := []string{
		"the *Task of a Handle is nil: pass the task's descriptor",
		task + "name has 129 characters: at most 128 are allowed",
		task + "alias is empty: want 1 to 128 characters",
		task + `alias "a\x00" contains a NUL character, which PostgreSQL cannot store`,
		task + `unknown key mode "merge": want replace, preserve_run_at or unsafe_dedupe`,
		task + "max_attempts is 40000: want 1 to 32767",
		task + "flag 0 is empty",
		task + "delay -1ns is negative: want 0 or more",
		task + "timeout -1ns is negative: want 0, for none, or more",
		task + "backoff exp(0s,0s,0): want a base above 0, a maximum not below it, and a factor of 1 or more",
		task + "its handler is nil: pass a function to Handle",
		task + "its BackoffFunc is nil: pass a function, or leave the option out",
	}
	if err == nil {
		t.Fatal("no problems")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestBackoffProblems(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		backoff backfill.Backoff
		want    string
	}{
		"default":       {backfill.Backoff{}, ""},
		"graphile":      {backfill.GraphileBackoff(), ""},
		"fast":          {backfill.FastBackoff(), ""},
		"aggressive":    {backfill.AggressiveBackoff(), ""},
		"conservative":  {backfill.ConservativeBackoff(), ""},
		"constant":      {backfill.ExponentialBackoff(time.Second, time.Second, 1), ""},
		"fixed 0":       {backfill.FixedBackoff(0), ""},
		"fixed":         {backfill.FixedBackoff(-time.Second), "backoff fixed(-1s): want 0 or more"},
		"base":          {backfill.ExponentialBackoff(-1, time.Second, 2), "want a base above 0"},
		"limit":         {backfill.ExponentialBackoff(time.Minute, time.Second, 2), "backoff exp(1m0s,1s,2): want"},
		"factor":        {backfill.ExponentialBackoff(time.Second, time.Minute, 0.5), "want"},
		"factor NaN":    {backfill.ExponentialBackoff(time.Second, time.Minute, math.NaN()), "want"},
		"factor no end": {backfill.ExponentialBackoff(time.Second, time.Minute, math.Inf(1)), "want"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := &backfill.Task[mailArgs]{Name: "t", Backoff: test.backoff}
			wantError(t, backfill.Problems(backfill.NewRegistry(backfill.Handle(task, ignore))), test.want)
		})
	}
}

// A process with two workers: the slow task has slots of its own, and nothing waits behind it. In
// separate processes, each makes one of the registries, and only the receivers that it needs.
func ExampleRegistry_Only() {
	slow := &backfill.Task[backfill.NoArgs]{Name: "nightly_export"}
	registry := backfill.NewRegistry(
		backfill.Handle(TaskWelcome, Welcome),
		backfill.Handle(slow, func(context.Context, backfill.NoArgs) error { return nil }),
	)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := backfill.Open(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Print(err)
		return
	}
	defer client.Close()
	var workers sync.WaitGroup
	run := func(r *backfill.Registry, concurrency int) {
		err := backfill.Run(ctx, r, backfill.WithClient(client), backfill.WithConcurrency(concurrency))
		if err != nil {
			log.Print(err)
		}
		stop() // one without the other would leave its jobs waiting
	}
	workers.Go(func() { run(registry.Only(TaskWelcome.Name), 20) })
	workers.Go(func() { run(registry.Only(slow.Name), 2) })
	workers.Wait()
}
