package interop_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/backfillhq/go/backfill"
)

// Older releases of Graphile Worker treat our schema as they treat one of 0.18 (contract section 2.4).
func TestB10OlderPeers(t *testing.T) {
	t.Parallel()
	point(t)
	t.Run("0.17 warns and works", func(t *testing.T) {
		t.Parallel()
		worksWithWarning(newFixture(t))
	})
	t.Run("0.16 refuses", func(t *testing.T) {
		t.Parallel()
		refuses(newFixture(t))
	})
}

func worksWithWarning(f *fixture) {
	before := f.schemaState()
	node := startPackage(f, older)

	added := node.add(task.Name, full, nil)
	events, stop := f.startWorker()
	events.await(f.T, "Go to work Node's job", 0, finished(added.ID))
	stop()
	if err := events.awaitEnd(f.T); err != nil {
		f.Errorf("run: %v", err)
	}

	enqueued := f.enqueue(full, backfill.Queue("letters"))
	node.work(bodies{task.Name: ""}, nil)
	worked, _ := node.record.await(f.T, "Node to work Go's job", 0, is("job"))
	if worked.Job.ID != enqueued.ID {
		f.Errorf("Node worked job %d, want %d", worked.Job.ID, enqueued.ID)
	}
	node.stop()
	node.wantLog("warning", "revision 20, but the currently running worker only supports up to revision 19 which may or may not be compatible")
	f.wantNothingLeft()
	if diff := cmp.Diff(before, f.schemaState()); diff != "" {
		f.Errorf("Node changed the schema (-before +after):\n%s", diff)
	}
}

// Revision 19 is a breaking one, and 0.16 has 18.
func refuses(f *fixture) {
	f.enqueue(full)
	jobs := "select to_json(j)::text from " + f.table("_private_jobs") + " j"
	before := append(f.schemaState(), f.lines(jobs)...)
	node := startPackage(f, oldest)
	for _, request := range []map[string]any{
		{"request": "work", "tasks": bodies{task.Name: ""}, "options": node.options},
		{"request": "add", "task": task.Name, "options": node.options},
	} {
		reply := node.try(request)
		if !strings.Contains(reply.Error, "revision 20 which includes breaking migration 19, but the currently running worker only supports up to revision 18") {
			f.Errorf("Node answered the request to %s with the error %q", request["request"], reply.Error)
		}
	}
	node.wantExit(57)
	if diff := cmp.Diff(before, append(f.schemaState(), f.lines(jobs)...)); diff != "" {
		f.Errorf("Node changed the database (-before +after):\n%s", diff)
	}
}
