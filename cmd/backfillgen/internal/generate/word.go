package generate

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// words are the options without a value. Each says that the user knows what the generator would
// otherwise warn of.
var words = map[string]func(t *task){
	"serial":    func(t *task) { t.serial = true },
	"singleton": func(t *task) { t.singleton = true },
}

// synonyms are names that other queues have for our options, as DidYouMean would not find them.
var synonyms = map[string][]string{
	"max_attempts": {"retries", "retry", "max_retry", "max_retries", "attempts", "tries", "max_tries", "retry_limit"},
	"key": {
		"unique", "uniq", "unique_key", "unique_for", "dedupe", "dedup", "dedupe_key", "id", "job_id", "task_id",
		"singleton_key", "idempotency_key",
	},
	"key_mode": {"unique_mode", "on_conflict", "replace", "conflict"},
	"delay":    {"run_at", "run_in", "in", "after", "wait", "schedule_in", "scheduled_at", "process_in", "start_after", "eta", "countdown"},
	"timeout":  {"deadline", "time_limit", "max_duration", "max_run_time"},
	"history":  {"retention", "keep", "keep_result", "result_ttl", "audit"},
	"tx":       {"isolation", "isolation_level", "iso_level", "transaction", "transactional"},
	"backoff":  {"retry_delay", "retry_policy", "retry_backoff"},
	"flags":    {"tags", "labels", "forbidden_flags"},
	"queue":    {"concurrency", "group", "partition", "queue_name", "channel"},
	"priority": {"weight", "importance"},
	"name":     {"kind", "task", "type", "identifier", "job"},
	"alias":    {"old_name", "formerly", "was"},
}

// schedules are names of what is not an option, but a line of its own.
var schedules = []string{"cron", "schedule", "every", "interval", "periodic", "crontab", "repeat"}

// meant says which option an unknown one was meant to be, or which there are.
func meant(written string) string {
	folded := strings.ReplaceAll(strings.Trim(strings.ToLower(written), "-'@"), "-", "_")
	if slices.Contains(schedules, folded) {
		return ": a schedule is a line of its own: //backfill:cron 0 4 * * *"
	}
	for _, name := range slices.Sorted(maps.Keys(synonyms)) {
		if slices.Contains(synonyms[name], folded) {
			return "; did you mean " + name + "?"
		}
	}
	if strings.ContainsAny(written, "{}()") {
		return ": quote a value that has spaces in it"
	}
	names := slices.Sorted(maps.Keys(options))
	all := append(slices.Sorted(maps.Keys(words)), names...)
	slices.Sort(all)
	return cmp.Or(diag.DidYouMean(written, all), "; there are "+strings.Join(all, ", "))
}
