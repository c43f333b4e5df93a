package directive_test

import (
	"testing"

	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

var verbs = []string{"task", "cron", "package"}

// What looks like a directive is told from what only mentions one.
func TestNear(t *testing.T) {
	t.Parallel()
	for comment, want := range map[string]string{
		"//backfil:task": "task", "//Backfill:task": "task", "//BACKFILL:TASK": "task", "//backfill-task": "task",
		"//backfill.task timeout=5s": "task", "//backfillgen:task": "task", "//backfill :task": "task",
		"/*backfill:task*/": "task", "/* backfill:task timeout=5s */": "task", "/*\n * backfill:task\n */": "task",
		"// backfill:task": "task", "//\tbackfill:task key=a": "task", "///backfill:task": "task", "//!backfill:task": "task",
		"// +backfill:task": "task", "//@backfill:task": "task", "//go:backfill:task": "task", "//back-fill:task": "task",
		"//back_fill:cron 0 4 * * *": "cron", "// back fill:task": "task", "//bakcfill:task": "task", "//bckfill:task": "task",
		"//backfilll:tsk": "task", "//backfill;task": "task", "//backfill/task": "task", "//backfill=task": "task",
		"//backfill_task": "task", "//backfill|task": "task", "//backfill：task": "task", "// backfill:cron */5 * * * *": "cron",
		"// backfill: cron @daily": "cron", "//backfil:tasks": "task", "// backfill:task max_attempts = 5": "task",
		"// Backfill.Task timeout=5s": "task", "//backfil:package prefix=Mail": "package", "//backfill::task": "",
		"//backfill>task": "task", "//backfill->task": "task", "//backfill@task": "task", "//backfill—task": "task", "//backfill∶task": "task",
		"//backfilltask": "task", "//backfillTask timeout=5s": "task", "//[backfill:task]": "task", "//<backfill:task>": "task", "//\"backfill:task\"": "task",
		"//-backfill:task": "task", "//$backfill:task": "task", "//\u200bbackfill:task": "task", "//backfill\u200b:task": "task",
		"//\ufeffbackfill:cron @daily": "cron", "//backfill-gen:task": "task", "//backfill.io:task": "task", "//backfill_go:task": "task",
		"//nolint:errcheck //backfill:task": "task", "//go:noinline //backfill:cron 0 4 * * *": "cron", "//backfill timeout=5s": "task",
		"// Backfill tasks": "", "// backfill cron": "", "/* Backfill tasks */": "", "//backfill(task)": "", "//backfill[task]": "",
		"//backfillTask(ctx)": "", "//backfillTask = nil": "", "//backfill := tasks": "", "//backfill(task, timeout=5)": "", "// - backfill: the task": "",
		"//nolint:errcheck // see //backfill:task": "", "// see //backfill:task": "", "// [backfill:Task]": "",
		"// backfill: task": "task", "// backfill：task": "task", "//backfill task": "task", "// backfill-cron 0 4 * * *": "cron", "// Backfill tasks timeout=5s": "task",
		"// Backfill: tasks": "", "// Backfill: package": "", "//backfill tasks": "", "//backfilled tasks": "", "// backfill, tasks": "",
		"// backfill -> cron": "", "// backfill/cron": "", "// backfill-cron 5 rows": "", "// Backfill tasks 1 and 2": "",
		"// Backfill tasks * all": "", "// Backfill package foo = bar": "", "//backfill := task": "",
		"//backfill:task": "", "//backfill:tsk": "", "//backfill": "", "//": "", "/**/": "", "//:": "",
		"// Backfill tasks are functions.": "", "// backfill:task lines are read from comments": "",
		"// Backfill: task names are for life.": "", "//\t//backfill:task key=a": "", "// package backfill is the runtime": "",
		"//backfill.Task[Args]{}": "", "// backfill.Task": "", "//backfill.Cron(\"0 4 * * *\"),": "", "// Backfills: cron jobs": "",
		"// backfilling cron jobs": "", "// baffled: task=1": "", "// the //backfill:task line": "", "//backfiller": "",
		"// [backfill.Task] describes it": "", "//nolint:task": "", "// back to task": "", "// Backfill-task runners wait.": "",
	} {
		got, ok := directive.Near(comment, verbs)
		if want != "" {
			want = directive.Prefix + want
		}
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t, want %q", comment, got, ok, want)
		}
	}
}
