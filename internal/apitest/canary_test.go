package apitest_test

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
)

const canaries = `{"a": "canary-one", "deep": [{"x": "canary-two"}, ["canary-three", 918273645546372819]], "key": "canary-four", "password": "canary-five", "t": true}`

var canary = []string{"canary-one", "canary-two", "canary-three", "918273645546372819", "canary-four", "canary-five", "canary-six", "canary-seven", "canary-eight"}

// secretive is a job and a dead letter with payloads that others are not to see, and errors that
// repeat them.
func (r *rig) secretive() (job, letter string) {
	r.Helper()
	job = r.job(`'send', '` + canaries + `', queue_name := 'q', job_key := 'k'`)
	r.run(`update graphile_worker._private_jobs set attempts = max_attempts, last_error = $2 where id = $1::bigint`, job, "cannot send canary-one or canary-two: 918273645546372819")
	r.run(`insert into graphile_worker.backfill_history (job_id, task_identifier, attempt, outcome, error, output, log)
		values ($1::bigint, 'send', 1, 'failed', 'cannot send canary-one', $2::json, 'about to send canary-two')`, job, canaries)
	letter = r.letter("send", canaries)
	r.run(`update graphile_worker.backfill_dlq set last_error = $2, first_error = $2, notes = $2 where id = $1::bigint`, letter, "cannot send canary-three to canary-four, canary-five")
	return job, letter
}

// A reader sees no value of a payload, wherever it asks, and finds none by searching for it; an
// operator sees no secret.
func TestReadersSeeNoValues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill()
	document, _ := r.document()
	job, letter := r.secretive()
	r.succeeds("PUT", "/jobs/"+job+"/payload", adminToken, `{"payload": `+strings.NewReplacer(`"t"`, `"more": "canary-six", "t"`, "canary-one", "canary-seven").Replace(canaries)+`, "reason": "an edit"}`, nil)
	r.succeeds("PATCH", "/dlq/"+letter, adminToken, `{"payload": `+strings.Replace(canaries, "canary-three", "canary-eight", 1)+`}`, nil)
	crawl := func(token string, hidden []string) (bodies int) {
		for name, operation := range operations(document) {
			method, path, _ := strings.Cut(operation, " ")
			if method != "GET" {
				continue
			}
			paths := []string{samples[name](r, adminToken).path}
			switch {
			case strings.HasPrefix(path, "/jobs/{id}"):
				paths = []string{strings.Replace(path, "{id}", job, 1)}
			case strings.HasPrefix(path, "/dlq/{id}"):
				paths = []string{strings.Replace(path, "{id}", letter, 1)}
			default:
				if !strings.Contains(path, "{") {
					paths = append(paths, path)
				}
			}
			for _, path := range paths {
				a := r.ask("GET", path, token, "")
				if a.StatusCode >= 300 {
					t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
				}
				if strings.Contains(string(a.body), admin.Redacted) {
					bodies++
				}
				for _, text := range hidden {
					if strings.Contains(string(a.body), text) {
						t.Errorf("%s shows %s: %s", path, text, a.body)
					}
				}
			}
		}
		return bodies
	}
	if n := crawl(readerToken, canary); n < 5 { // the job and the letter, alone and in lists, and why
		t.Errorf("%d responses have something hidden", n)
	}
	crawl(operatorToken, []string{"canary-five"})
	running := r.job(`'send', '` + canaries + `'`)
	r.run("update graphile_worker._private_jobs set locked_by = 'pool-1', locked_at = now(), attempts = 1 where id = $1::bigint", running)
	r.run("insert into graphile_worker.backfill_progress (job_id, token, attempt, done, total, note) values ($1::bigint, 'pool-1', 1, 3, 7, 'at canary-one')", running)
	for token, want := range map[string]string{readerToken: admin.Redacted, operatorToken: "at canary-one"} {
		var answer admin.ProgressAnswer
		r.succeeds("GET", "/jobs/"+running+"/progress", token, "", &answer)
		if answer.Progress == nil || answer.Progress.Note != want || answer.Progress.Done != 3 {
			t.Errorf("the progress is %+v, want the note %q", answer.Progress, want)
		}
	}
	for _, query := range []string{
		"/jobs?payload_contains=" + url.QueryEscape(`{"more": "canary-six"}`), "/jobs?error_contains=canary-two", "/jobs?error_contains=918273645546372819",
		"/dlq?error_contains=canary-three",
	} {
		a := r.succeeds("GET", query, readerToken, "", nil)
		if strings.Contains(string(a.body), `"id"`) {
			t.Errorf("%s finds what is hidden: %s", query, a.body)
		}
	}
	r.fails(r.request("PUT", "/jobs/"+job+"/payload", adminToken, `{"payload": {"other": "[redacted]"}}`), 422, "INVALID_REQUEST", "[redacted]")
}

// Numbers are what they were, whatever reads and writes them.
func TestNumbersStayAsTheyAre(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, numbers := range []string{
		`{"n":12345678901234567890.10,"z":-0,"f":0.10000000000000000000000001,"i":9007199254740993}`, `{"beyond":1e400}`,
	} {
		var outcome admin.Outcome
		r.succeeds("POST", "/jobs", operatorToken, `{"task": "send", "payload": `+numbers+`}`, &outcome)
		path := fmt.Sprintf("/jobs/%d", outcome.JobID)
		for range 2 {
			a := r.succeeds("GET", path, operatorToken, "", nil)
			if !strings.Contains(string(a.body), `"payload":`+numbers) {
				t.Errorf("the payload is %s", a.body)
			}
			r.succeeds("PUT", path+"/payload", adminToken, `{"payload": `+numbers+`}`, nil)
		}
		letter := "/dlq/" + r.letter("send", "{}")
		r.succeeds("PATCH", letter, adminToken, `{"payload": `+numbers+`}`, nil)
		if a := r.succeeds("GET", letter, operatorToken, "", nil); !strings.Contains(string(a.body), `"payload":`+numbers) {
			t.Errorf("the payload is %s", a.body)
		}
	}
}

// Script in names and errors reaches a browser as JSON, in which it is nothing.
func TestScript(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const script = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	r.run(`select graphile_worker.add_job($1, json_build_object('x', $1::text), queue_name := $1, job_key := $1)`, script)
	r.run(`update graphile_worker._private_jobs set last_error = $1, attempts = 1`, script)
	r.run(`insert into graphile_worker._private_known_crontabs (identifier, known_since) values ($1, now())`, script)
	r.succeeds("POST", "/pauses", operatorToken, `{"queue": "q", "reason": "<script>alert(1)</script>"}`, nil)
	document, _ := r.document()
	names := operations(document)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !strings.HasPrefix(names[name], "GET ") {
			continue
		}
		a := r.ask("GET", samples[name](r, adminToken).path, operatorToken, "")
		if strings.Contains(string(a.body), "<script") || strings.Contains(string(a.body), "<img") {
			t.Errorf("%s: %s", name, a.body)
		}
		if kind := a.Header.Get("Content-Type"); kind != "application/json" && name != "index" {
			t.Errorf("%s is %s", name, kind)
		}
	}
	a := r.ask("GET", "/"+url.PathEscape(script), operatorToken, "")
	if strings.Contains(string(a.body), "<script") {
		t.Errorf("a wrong path comes back: %s", a.body)
	}
}
