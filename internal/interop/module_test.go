package interop_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/internal/needs"
	"github.com/backfillhq/go/testutil/pgtest"
)

// released is the version that the proxy of the test has.
var released = module.Version{Path: "github.com/backfillhq/go", Version: "v1.0.0"}

// newProxy writes a module proxy into a folder: this tree as a released version. The zip is made as
// the go command demands it, so a file that it refuses fails here.
func newProxy(t *testing.T) (folder string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	folder = t.TempDir()
	versions := filepath.Join(folder, filepath.FromSlash(released.Path), "@v")
	if err := os.MkdirAll(versions, 0o755); err != nil {
		t.Fatal(err)
	}
	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"list": released.Version + "\n", released.Version + ".mod": string(goMod),
		released.Version + ".info": fmt.Sprintf(`{"Version": %q, "Time": "2026-11-30T00:00:00Z"}`, released.Version),
	} {
		if err := os.WriteFile(filepath.Join(versions, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Create(filepath.Join(versions, released.Version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(zip.CreateFromDir(file, released, root), file.Close()); err != nil {
		t.Fatal(err)
	}
	return folder
}

// asTeam returns what runs a command line of a team that has Go, and nothing of ours: an empty
// module cache, and proxies of files alone.
func asTeam(t *testing.T, databaseURL string) func(line string) (stdout, stderr string, code int) {
	t.Helper()
	cache, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	downloads := filepath.Join(strings.TrimSpace(string(cache)), "cache", "download")
	environment := append(os.Environ(),
		"GOPROXY=file://"+filepath.ToSlash(newProxy(t))+",file://"+filepath.ToSlash(downloads)+",off",
		"GOMODCACHE="+t.TempDir(), "GOSUMDB=off", "GONOPROXY=none", "GOWORK=off", "GOTOOLCHAIN=local",
		"GOFLAGS=-mod=mod -modcacherw", // so that it can be removed
		"DATABASE_URL="+databaseURL)
	elsewhere := t.TempDir()
	return func(line string) (string, string, int) {
		t.Helper()
		var out, errs strings.Builder
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = elsewhere, environment, &out, &errs
		err := cmd.Run()
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			t.Fatal(err)
		}
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
}

// A Node team asks the first questions without a line of Go: by the words of docs/node-teams.md, on
// a database that npm's graphile-worker alone has installed and used.
func TestNodeTeamRunsTheModule(t *testing.T) {
	t.Parallel()
	needs.That(t, needs.All(), "permission to build the command anew, as BACKFILL_TEST_ALL=1 gives")
	f := newFixture(t)
	f.db = pgtest.Empty(t)
	node := startPeer(f)
	node.work(bodies{"sync": "await tell(helpers); await released"}, nil)
	running := node.add("sync", full, map[string]any{"queueName": "user:7"})
	node.record.await(t, "the job", 0, is("job"))
	waiting := node.add("sync", full, map[string]any{"queueName": "user:7"})
	shell := asTeam(t, f.db.URL)

	page, err := os.ReadFile("../../docs/node-teams.md")
	if err != nil {
		t.Fatal(err)
	}
	const command = "go run github.com/backfillhq/go/cmd/backfill@latest"
	for _, line := range []string{command + " doctor", command + " why 42"} {
		if !strings.Contains(string(page), "$ "+line) {
			t.Errorf("the page lacks the command %s", line)
		}
	}
	out, errs, code := shell(command + " doctor --json")
	var d admin.Diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("%v, exit code %d\n%s%s", err, code, out, errs)
	}
	for _, finding := range d.Findings {
		if finding.Code != admin.SettingUnsafe { // the servers of tests are fast and not safe
			t.Errorf("found %+v", finding)
		}
	}
	if want := min(len(d.Findings), 1); code != want || len(d.Missing) > 0 {
		t.Errorf("exit code %d, want %d; missing %+v", code, want, d.Missing)
	}
	for id, want := range map[int64]admin.Code{running.ID: admin.RunningElsewhere, waiting.ID: admin.QueueHeld} {
		out, errs, code := shell(command + " why --json " + strconv.FormatInt(id, 10))
		var x admin.Explanation
		if err := json.Unmarshal([]byte(out), &x); err != nil || code != 0 || x.Blocker.Code != want {
			t.Errorf("job %d: %v, exit code %d, %s, want %s\n%s", id, err, code, x.Blocker.Code, want, errs)
		}
	}
	// The version that is named is the one that runs, and a job that never was has its exit code.
	_, errs, code = shell("go run github.com/backfillhq/go/cmd/backfill@" + released.Version + " why 4711")
	if code != 1 || !strings.Contains(errs, "job 4711 is not there") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	if n := dbtest.Get[int](t, f.db.Pool(), "select count(*)::int from pg_class where relname like 'backfill%'"); n != 0 {
		t.Errorf("%d tables and indexes of ours are in a database that was only looked at", n)
	}
}
