package apitest_test

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/backfillhq/go/backfill/admin"
)

// sample is a request of an operation that succeeds for who may do it.
type sample struct{ path, body string }

// samples are a request of each operation, by its name. Each makes what it needs, so that all can be
// sent again and again; token is of who sends it, unless it is wrong.
var samples = map[string]func(r *rig, token string) sample{
	"index":    at("/"),
	"describe": at("/openapi.json"),
	"health":   at("/health"),
	"status":   at("/status"),

	"listTasks":  at("/tasks"),
	"listQueues": at("/queues?limit=10&locked=false&names=a%2Fb"),
	"showQueue": func(r *rig, _ string) sample {
		r.job(`'send', queue_name := 'a/b'`)
		return sample{"/queues/a%2Fb/stats", ""}
	},
	"listRates":    at("/rates"),
	"listWorkers":  at("/workers"),
	"examine":      at("/doctor"),
	"previewFixes": func(*rig, string) sample { return sample{"/doctor/preview", "{}"} },
	"fix": func(r *rig, _ string) sample {
		r.run("drop function if exists graphile_worker.remove_job")
		var preview admin.FixPreview
		r.succeeds("POST", "/doctor/preview", adminToken, "{}", &preview)
		return sample{"/doctor/fix", fmt.Sprintf(`{"token": %q, "reason": "it was dropped"}`, preview.Token)}
	},
	"listRecords": at("/audit?limit=10&kind=job&actions=retry&actions=cancel&from=2026-01-01T00:00:00Z"),

	"listJobs": at("/jobs?limit=10&oldest=true&states=due&states=waiting&tasks=send&min_priority=-1&no_queue=true&run_at_from=2020-01-01T00:00:00Z" +
		"&payload_contains=" + url.QueryEscape(`{"n": 1}`)),
	"enqueue": func(*rig, string) sample {
		return sample{"/jobs", `{"task": "send", "payload": {"n": 1}, "queue": "q", "priority": -5, "max_attempts": 3, "run_at": "2030-01-01T00:00:00Z", "flags": ["f"], "reason": "asked for"}`}
	},
	"showJob":      jobAt("", ""),
	"listAttempts": jobAt("/history", ""),
	"showProgress": jobAt("/progress", ""),
	"explainJob":   jobAt("/why", ""),
	"retryJob": func(r *rig, _ string) sample {
		return sample{"/jobs/" + r.failed() + "/retry", `{"reason": "again", "seen": {"attempts": 25}}`}
	},
	"cancelJob":     jobAt("/cancel?reason=no+more&seen_attempts=0", ""),
	"deleteJob":     jobAt("?reason=no+more", ""),
	"rescheduleJob": jobAt("/reschedule", `{"run_at": "2030-01-01T00:00:00Z", "priority": 3, "max_attempts": 7, "seen": {"revision": 0}}`),
	"editJob":       jobAt("/payload", `{"payload": {"n": 12345678901234567890.10}, "reason": "a typo"}`),

	"listDeadLetters":   at("/dlq?limit=10&task_identifier=send&queue_name=old&reasons=exhausted"),
	"countDeadLetters":  at("/dlq/stats"),
	"showDeadLetter":    letterAt("", ""),
	"deleteDeadLetter":  letterAt("?reason=old", ""),
	"editDeadLetter":    letterAt("", `{"payload": {"n": 2}, "priority": 3, "queue": "", "notes": "looked at"}`),
	"requeueDeadLetter": letterAt("/requeue", `{"notes": "again", "reason": "it is mended"}`),
	"cleanUpDeadLetters": func(r *rig, _ string) sample {
		r.letter("send", "{}")
		return sample{"/dlq/cleanup", `{"older_than_days": 90, "max_jobs": 2, "reason": "old"}`}
	},
	"requeueDeadLetters": func(r *rig, _ string) sample {
		return sample{"/dlq/batch-requeue", `{"filter": {"ids": [` + r.letter("send", "{}") + `]}, "throttle_ms": 0, "max_jobs": 10, "notes": "again"}`}
	},
	"deleteDeadLetters": func(r *rig, _ string) sample {
		return sample{"/dlq/batch-delete", `{"filter": {"ids": [` + r.letter("send", "{}") + `]}}`}
	},

	"listLocks":    at("/locks/status"),
	"cleanUpLocks": func(*rig, string) sample { return sample{"/locks/cleanup", `{"reason": "in the way"}`} },
	"unlockQueue": func(r *rig, _ string) sample {
		r.job(`'send', queue_name := 'stale'`)
		r.run(`update graphile_worker._private_job_queues set locked_by = 'worker-gone', locked_at = now() - interval '5 hours' where queue_name = 'stale'`)
		return sample{"/queues/stale/unlock", `{"reason": "its worker is gone"}`}
	},
	"unlockWorker": func(r *rig, _ string) sample {
		id := r.job(`'send'`)
		r.run(`update graphile_worker._private_jobs set locked_by = 'worker-node', locked_at = now(), attempts = 1 where id = $1::bigint`, id)
		return sample{"/workers/worker-node/unlock", `{"force": true}`}
	},

	"listPauses": at("/pauses"),
	"pause": func(r *rig, _ string) sample {
		r.job(`'send'`)
		return sample{"/pauses", `{"task": "send", "until": "2099-01-01T00:00:00Z", "reason": "the provider is down"}`}
	},
	"resume": func(r *rig, _ string) sample {
		r.run(`insert into graphile_worker.backfill_queue_pauses (queue_name) values ('q') on conflict do nothing`)
		return sample{"/pauses?queue=q&reason=up", ""}
	},
	"listCrontabs":   at("/cron?limit=5"),
	"explainCrontab": at("/cron/nightly/why"),
	"triggerCrontab": func(r *rig, _ string) sample {
		r.run(`insert into graphile_worker.backfill_workers (id, tasks, crontab) values ('pool-0123456789abcdef02', '{send}',
			'[{"id": "nightly", "schedule": "0 3 * * *", "task": "send", "payload": {"n": 1}}]') on conflict (id) do update set heartbeat_at = clock_timestamp()`)
		return sample{"/cron/nightly/trigger", `{"reason": "it was missed"}`}
	},

	"listOperations": at("/operations?limit=5"),
	"previewOperation": func(r *rig, _ string) sample {
		r.job(`'send'`)
		return sample{"/operations", `{"action": "retry", "jobs": {"tasks": ["send"]}, "per_second": 2.5}`}
	},
	"startOperation": func(r *rig, token string) sample {
		return sample{"/operations/start", fmt.Sprintf(`{"token": %q, "reason": "asked for"}`, r.preview(token).Token)}
	},
	"showOperation": operationAt("", ""),
	"listItems":     operationAt("/items?limit=5&skips=gone", ""),
	"stopOperation": operationAt("/stop", `{"reason": "a mistake"}`),
	"resumeOperation": func(r *rig, _ string) sample {
		id := r.operation()
		r.succeeds("POST", "/operations/"+id+"/stop", adminToken, `{}`, nil)
		return sample{"/operations/" + id + "/resume", `{"reason": "no mistake"}`}
	},
}

func at(path string) func(*rig, string) sample {
	return func(*rig, string) sample { return sample{path, ""} }
}

func jobAt(rest, body string) func(*rig, string) sample {
	return func(r *rig, _ string) sample { return sample{"/jobs/" + r.job(`'send', '{"n": 1}'`) + rest, body} }
}

// failed is a job that has failed for good.
func (r *rig) failed() string {
	r.Helper()
	id := r.job(`'send', '{"n": 1}'`)
	r.run("update graphile_worker._private_jobs set attempts = max_attempts, last_error = 'it broke' where id = $1::bigint", id)
	return id
}

func letterAt(rest, body string) func(*rig, string) sample {
	return func(r *rig, _ string) sample { return sample{"/dlq/" + r.letter("send", `{"n": 1}`) + rest, body} }
}

func operationAt(rest, body string) func(*rig, string) sample {
	return func(r *rig, _ string) sample { return sample{"/operations/" + r.operation() + rest, body} }
}

// preview makes a preview of who has the token, or, if it cannot, of admin.
func (r *rig) preview(token string) *admin.Preview {
	r.Helper()
	body := `{"action": "reschedule", "reschedule": {"priority": 1}, "per_second": 0.01, "jobs": {"ids": [` + r.job(`'send'`) + "," + r.job(`'send'`) + `]}}`
	var p admin.Preview
	a := r.ask("POST", "/operations", token, body)
	if a.StatusCode >= 300 {
		a = r.succeeds("POST", "/operations", adminToken, body, nil)
	}
	a.decode(r.T, &p)
	return &p
}

// operation starts an operation that goes on for long.
func (r *rig) operation() string {
	r.Helper()
	p := r.preview(adminToken)
	r.succeeds("POST", "/operations/start", adminToken, fmt.Sprintf(`{"token": %q}`, p.Token), nil)
	return strconv.FormatInt(p.Operation.ID, 10)
}
