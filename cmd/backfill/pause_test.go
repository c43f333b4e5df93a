package main

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/testutil/pgtest"
)

var times = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// What the commands write, word by word.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connectTo(t, db.URL)
	execute(t, conn, "select graphile_worker.add_job('send_email')")
	const node = ", in 2 seconds on all Go workers; Node workers do not know pauses\n"
	for _, step := range []struct {
		code           int
		arguments      []string
		stdout, stderr string
	}{
		{0, []string{"pause", "--list"}, "", "nothing is paused\n"},
		{0, []string{"pause", "send_email", "--by", "ada", "--reason", "mails\ngo\tout twice"}, "task send_email is paused until it is resumed" + node, ""},
		{0, []string{"pause", "--queue", "imports", "--for", "90m", "--by", "bo"}, "queue imports is paused until TIME" + node, ""},
		{0, []string{"pause", "--until", "2100-01-02T03:04:05+01:00", "--queue", "a queue", "--by", "bo"}, "queue a queue is paused until TIME" + node, ""},
		{0, []string{"pause", "--list"}, "" +
			"PAUSED  NAME        SINCE                 UNTIL                 BY   REASON\n" +
			"task    send_email  TIME  -                     ada  mails go out twice\n" +
			"queue   a queue     TIME  TIME  bo   \n" +
			"queue   imports     TIME  TIME  bo   \n", ""},
		{3, []string{"pause", "typo"}, "", `backfill: pause task "typo": no task has this name: no worker has served it, and no job has had it` + "\n"},
		{0, []string{"resume", "send_email"}, "task send_email is resumed\n", ""},
		{0, []string{"resume", "--queue", "imports"}, "queue imports is resumed\n", ""},
		{3, []string{"resume", "send_email"}, "", `backfill: resume task "send_email": it is not paused` + "\n"},
		{3, []string{"resume", "--queue", "imports"}, "", `backfill: resume queue "imports": it is not paused` + "\n"},
	} {
		stdout, stderr := command(t, step.code, append(step.arguments, "--database-url", db.URL)...)
		if diff := cmp.Diff(step.stdout, times.ReplaceAllString(stdout, "TIME")); diff != "" {
			t.Errorf("%q: standard output (-want +got):\n%s", step.arguments, diff)
		}
		if diff := cmp.Diff(step.stderr, stderr); diff != "" {
			t.Errorf("%q: standard error (-want +got):\n%s", step.arguments, diff)
		}
	}
	want := []string{"a queue 2100-01-02 02:04:05"}
	got := list(t, conn, "select queue_name || ' ' || (ends_at at time zone 'UTC') from graphile_worker.backfill_queue_pauses")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pauses of queues (-want +got):\n%s", diff)
	}
}

// A wrong usage connects to no database, and repeats no argument, which may be a URL.
func TestPauseUsage(t *testing.T) {
	t.Parallel()
	const secret = "postgres://ada:hunter2@127.0.0.1:1/x" //nolint:gosec // not one
	for want, arguments := range map[string][]string{
		"pause takes the name of one task, or --queue and the name of a queue":  {"pause", "a", secret},
		"resume takes the name of one task, or --queue and the name of a queue": {"resume"},
		"pause takes a task or --queue: choose one":                             {"pause", "--queue", "q", secret},
		"or --queue and the name of a queue":                                    {"resume", "--queue", ""},
		"--for and --until: choose one":                                         {"pause", "a", "--for", "1h", "--until", "2100-01-01T00:00:00Z"},
		"--until: want a time as in":                                            {"pause", "a", "--until", "hunter2"},
		"the pause would be over already":                                       {"pause", "a", "--for", "-1h"},
		"over already: want a time to come":                                     {"pause", "a", "--until", "2020-01-01T00:00:00Z"},
		"invalid value for flag -for":                                           {"pause", "a", "--for", "hunter2"},
		"--list changes nothing: leave --by out":                                {"pause", "--list", "--by", "ada"},
		"--list changes nothing: leave the task out":                            {"pause", "--list", secret},
		"name is empty": {"pause", "a", "--schema", ""},
	} {
		stdout, stderr := command(t, 2, append(arguments, "--database-url", secret)...)
		says(t, stderr, want)
		if regexp.MustCompile("hunter2").MatchString(stdout + stderr) {
			t.Errorf("%q: it shows the password: %s%s", arguments, stdout, stderr)
		}
	}
	for _, name := range []string{"pause", "resume"} {
		stdout, _ := command(t, 0, "help", name)
		says(t, stdout, "--queue NAME", "DATABASE_URL", "Exit codes")
	}
}
