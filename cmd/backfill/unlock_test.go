package main

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// The id of a Go worker in the tests.
const goWorker = "pool-0123456789abcdef01"

// lockAs adds two jobs, of two queues, that a worker has locked, with a token that is made of its
// id.
func lockAs(t *testing.T, db *pgtest.Database, id, token, queueToken string) {
	t.Helper()
	conn := connectTo(t, db.URL)
	execute(t, conn, `select graphile_worker.add_job('t', '{}', queue_name := 'q' || i) from generate_series(1, 2) i`)
	execute(t, conn, "update graphile_worker._private_jobs set attempts = 1, locked_at = now(), locked_by = '"+id+token+"'")
	execute(t, conn, "update graphile_worker._private_job_queues set locked_at = now(), locked_by = '"+id+queueToken+"'")
}

// locked are the values of locked_by that there are.
func locked(t *testing.T, db *pgtest.Database) string {
	t.Helper()
	return strings.Join(list(t, connectTo(t, db.URL), `select locked_by from graphile_worker._private_jobs where locked_by is not null
		union all select locked_by from graphile_worker._private_job_queues where locked_by is not null order by 1`), " ")
}

// A worker that lives is refused. One that was declared dead, or is silent for longer than any
// worker that lives, is not. Nobody can tell of a worker without heartbeats, or of Node's.
func TestUnlock(t *testing.T) {
	t.Parallel()
	const head = "database  …\nschema    graphile_worker\nplace     locks of worker "
	for name, test := range map[string]struct {
		row     string // of the worker; "": none
		id      string
		by      string // what the operator passes
		refused string // "": it is not
	}{
		"alive":          {"now(), null, 5", goWorker, goWorker, "is alive: on host web-1, pid 7, last heartbeat "},
		"by a token":     {"now() - interval '20 seconds', null, 5", goWorker, goWorker + ".1.1", "is alive: on host web-1, pid 7, last heartbeat 2"},
		"declared dead":  {"now(), now(), 5", goWorker, goWorker + ".1", ""},
		"silent":         {"now() - interval '40 seconds', null, 5", goWorker, goWorker, ""},
		"without beats":  {"now() - interval '1 hour', null, null", goWorker, goWorker, "nobody can tell"},
		"not registered": {"", goWorker, goWorker, "nobody can tell"},
		"of Node":        {"", "node.worker", "node.worker", "nobody can tell"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if test.row != "" {
				execute(t, connectTo(t, db.URL), `insert into graphile_worker.backfill_workers (heartbeat_at, dead_at, beats, id, host, pid)
					select `+test.row+", '"+test.id+"', 'web-1', 7")
			}
			if test.id == goWorker {
				lockAs(t, db, test.id, ".1.1", ".1")
			} else {
				lockAs(t, db, test.id, "", "")
			}
			before := locked(t, db)
			arguments := []string{"unlock", "--database-url", db.URL, test.by}
			want := "released 2 jobs and 2 queues of " + test.id + "\n"
			if test.refused != "" {
				stdout, stderr := command(t, 1, arguments...)
				says(t, stderr, test.refused, "--force --reason")
				same(t, "", stdout)
				if diff := cmp.Diff(before, locked(t, db)); diff != "" {
					t.Errorf("locks (-before +after):\n%s", diff)
				}
				arguments = append(arguments, "--force", "--reason", "machine\nis gone")
				want += "forced: machine\n              is gone\n"
			}
			stdout, stderr := command(t, 0, arguments...)
			same(t, want, stdout)
			same(t, head+test.by+"\n", stderr)
			if left := locked(t, db); left != "" {
				t.Errorf("%s is still locked", left)
			}
			command(t, 3, arguments...)
		})
	}
}

// What a worker runs at this moment stays its own.
func TestUnlockOfAWorkerThatRuns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client, err := backfill.Open(t.Context(), db.URL, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	started, end := make(chan string), make(chan struct{})
	task, registry := newTask(t, "note", func(context.Context, noteArgs) error {
		started <- strings.Join(list(t, connectTo(t, db.URL), "select locked_by from graphile_worker._private_jobs"), " ")
		<-end
		return nil
	})
	if _, err := backfill.Enqueue(t.Context(), client, task, noteArgs{}); err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() {
		_, err := backfill.RunOnce(t.Context(), registry, backfill.WithClient(client))
		ran <- err
	}()
	token := <-started
	_, stderr := command(t, 1, "unlock", "--database-url", db.URL, token)
	says(t, stderr, "is alive", strings.SplitN(token, ".", 2)[0])
	close(end)
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if left := list(t, connectTo(t, db.URL), "select id::text from graphile_worker._private_jobs"); len(left) > 0 {
		t.Errorf("jobs %q are left", left)
	}
}

// Rows that somebody has locked are skipped, and told. Suspects are freed without force.
func TestUnlockOfAPart(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	execute(t, connectTo(t, db.URL), `insert into graphile_worker.backfill_workers (id, dead_at, beats) select '`+goWorker+"', now(), 5")
	lockAs(t, db, goWorker, ".1.1", ".1")
	holder := connectTo(t, db.URL)
	execute(t, holder, "begin; select from graphile_worker._private_jobs where id = 1 for update")
	stdout, stderr := command(t, 4, "unlock", "--database-url", db.URL, goWorker)
	same(t, "released 1 jobs and 1 queues of "+goWorker+"\n", stdout)
	says(t, stderr, "2 jobs and queues are still locked", "run this again")
	execute(t, holder, "rollback")
	stdout, _ = command(t, 0, "unlock", "--database-url", db.URL, goWorker)
	same(t, "released 1 jobs and 1 queues of "+goWorker+"\n", stdout)

	const cohort = "backfill-suspect.0123456789abcdef01"
	lockAs(t, db, cohort, ".1", "")
	stdout, _ = command(t, 0, "unlock", "--database-url", db.URL, cohort+".1")
	same(t, "released 4 jobs and 2 queues of "+cohort+"\n", stdout)
	command(t, 3, "unlock", "--database-url", db.URL, cohort)
	if left := locked(t, db); left != "" {
		t.Errorf("%s is still locked", left)
	}
}

func TestUnlockUsage(t *testing.T) {
	t.Parallel()
	for want, arguments := range map[string][]string{
		"unlock takes one worker":  {},
		"unlock takes one worker:": {"a", "b"},
		"--force needs --reason":   {"--force", "w"},
		"not defined: -yes":        {"--yes", "w"},
	} {
		_, stderr := command(t, 2, append([]string{"unlock", "--database-url", "postgres://127.0.0.1:1/nowhere"}, arguments...)...)
		says(t, stderr, want)
	}
	stdout, _ := command(t, 0, "help", "unlock")
	says(t, stdout, "--force", "Exit codes", "whole pool id")
}
