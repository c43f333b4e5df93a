package pg

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// whatTimeItIs matches everything by which SQL can ask for it.
var whatTimeItIs = regexp.MustCompile(`(?i)\b(?:(?:pg_catalog\.)?(?:now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday)\s*\(|` +
	`current_timestamp|localtimestamp|current_date|current_time|localtime)|'(?:now|today|tomorrow|yesterday)'`)

// Every statement of the runtime asks for the time in a way that a test's clock gets into (X90).
// What it does not is the identity of a transaction: when that began, which nothing may move.
func TestStatementsReadOneClock(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("query/*.sql")
	if err != nil || len(paths) < 10 {
		t.Fatalf("the statements are in %q, %v", paths, err)
	}
	comment := regexp.MustCompile(`--[^\n]*`)
	read, identities := 0, 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sql := comment.ReplaceAllString(string(text), "")
		moved := newTexts("jobs")
		moved.readFrom("a clock")
		rendered := moved.render(sql)
		read += strings.Count(rendered, `"a clock".`)
		began := strings.Count(rendered, "pg_catalog.transaction_timestamp()")
		if began > 0 && path != filepath.FromSlash("query/tx.sql") {
			t.Errorf("%s asks when its transaction began", path)
		}
		identities += began
		left := regexp.MustCompile(`"a clock"\.[a-z_]+\(\)`).ReplaceAllString(rendered, "")
		left = strings.ReplaceAll(left, "pg_catalog.transaction_timestamp()", "")
		for _, found := range whatTimeItIs.FindAllString(left, -1) {
			t.Errorf("%s asks for the time by %s, which no clock gets into: write now(), clock_timestamp() or statement_timestamp()", path, found)
		}
		if readTime(sql, "") != sql {
			t.Errorf("%s changes where nobody has a clock", path)
		}
	}
	if read < 200 || identities != 2 {
		t.Errorf("%d places read the clock, and %d say when a transaction began", read, identities)
	}
}

// processTime is who reads the time of this process, and what for. It is never stored, nor compared
// with what is: that is the database's (R12). Whoever is not in this list decides that first.
var processTime = map[string]string{
	"backfill/cancel.go":                  "the throttle of bulk cancels",
	"backfill/deadletter_change.go":       "the throttle of bulk changes",
	"backfill/guard.go":                   "how often a line is logged",
	"backfill/history.go":                 "durations of jobs",
	"backfill/pause.go":                   "a check of a caller's time, which the database does not see; it may be late",
	"internal/enqueue/limit.go":           "patience of enqueues",
	"internal/enqueue/nudge.go":           "the pace of notifications",
	"internal/pg/admin_cancel.go":         "patience of cancels",
	"internal/pg/beat.go":                 "life times of sessions, and measuring the server's clock",
	"internal/pg/claim.go":                "the pace of claims",
	"internal/pg/claim_refused.go":        "for how long refused rows are passed over",
	"internal/pg/claim_store.go":          "how often something is read again, or logged",
	"internal/pg/clock.go":                "what has passed since the server's clock was measured",
	"internal/pg/connect.go":              "deadlines of connections",
	"internal/pg/enqueue_outcome.go":      "patience of enqueues",
	"internal/pg/enqueue_watch.go":        "deadlines of connections",
	"internal/pg/history.go":              "the pace of upkeep",
	"internal/pg/letters.go":              "the pace of upkeep",
	"internal/pg/listen.go":               "measuring the server's clock",
	"internal/pg/nudge.go":                "life times of sessions",
	"internal/pg/pauses.go":               "how often pauses are read again",
	"internal/pg/session_settings.go":     "measuring the server's clock",
	"internal/pg/session_transactions.go": "for how long the pool has been full",
	"internal/pg/statements.go":           "how long statements take",
	"internal/pg/sweep.go":                "the pace of upkeep",
	"internal/pg/traces.go":               "the pace of upkeep, and how often a line is logged",
	"internal/pg/tx_job.go":               "patience of transactions",
	"internal/worker/ask.go":              "for how long a handler has run, for an operator",
	"internal/worker/beat.go":             "heartbeats",
	"internal/worker/clock.go":            "heartbeats",
	"internal/worker/cron.go":             "the clock of workers in memory; those with a database have its",
	"internal/worker/dispatch.go":         "durations of claims",
	"internal/worker/drain.go":            "deadlines of a stop",
	"internal/worker/execute.go":          "durations of jobs",
	"internal/worker/flush.go":            "for how long an outcome waits, for the log",
	"internal/worker/health.go":           "overlong jobs",
	"internal/worker/observer.go":         "the observation of others",
	"internal/worker/overlong.go":         "overlong jobs",
	"internal/worker/rescue.go":           "the observation of others",
	"internal/worker/stuck.go":            "handlers that ignore the end of their contexts",
	"internal/worker/survey.go":           "the pace of surveys",
	"internal/worker/turns.go":            "whether a loop is stuck",
	"internal/worker/upkeep.go":           "which handlers ignore the end of their contexts",
	"internal/worker/worker.go":           "the timers of the core, and deadlines of a stop",
}

// Go code asks nobody but the database for a time that counts, and not beside the statements (X90).
func TestWhoReadsTheTimeOfThisProcess(t *testing.T) {
	t.Parallel()
	readers := map[string]bool{}
	for _, dir := range []string{"backfill", "internal/pg", "internal/worker", "internal/enqueue", "internal/crontab", "internal/conviction"} {
		paths, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %q, %v", dir, paths, err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.ToSlash(strings.TrimPrefix(path, filepath.FromSlash("../../")))
			ast.Inspect(file, func(node ast.Node) bool {
				switch node := node.(type) {
				case *ast.SelectorExpr:
					of, ok := node.X.(*ast.Ident)
					if ok && of.Name == "time" && slices.Contains([]string{"Now", "Since", "Until"}, node.Sel.Name) {
						readers[name] = true
					}
				case *ast.BasicLit:
					if node.Kind == token.STRING && whatTimeItIs.MatchString(node.Value) &&
						name != "internal/pg/session_settings.go" && dir != "internal/crontab" { // which states its own, and which has no SQL
						t.Errorf("%s asks SQL for the time beside the statements in query/*.sql: %s", name, node.Value)
					}
				}
				return true
			})
		}
	}
	for name := range readers {
		if processTime[name] == "" {
			t.Errorf("%s reads the time of this process: if it is stored, or compared with what is, take the database's; if not, say what for here", name)
		}
	}
	for name := range processTime {
		if !readers[name] {
			t.Errorf("%s reads no time: take it out", name)
		}
	}
}
