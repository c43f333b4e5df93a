package backfill_test

import (
	"context"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// withoutTimes leaves out what the database's clock decides.
var withoutTimes = cmpopts.IgnoreFields(backfill.Job{}, "ID", "RunAt", "CreatedAt")

func TestEnqueueOneWithDefaults(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	before := get[time.Time](t, db.Pool(), "select clock_timestamp()")
	job := enqueue(t, client, mailTask, mailArgs{UserID: 7, Template: "a"})
	after := get[time.Time](t, db.Pool(), "select clock_timestamp()")
	want := &backfill.Job{Task: "send_email", Args: raw(`{"user_id":7,"template":"a"}`), MaxAttempts: 25}
	if diff := cmp.Diff(want, job, withoutTimes); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	if job.RunAt.Before(before) || job.RunAt.After(after) || !job.RunAt.Equal(job.CreatedAt) {
		t.Errorf("run_at %v, created_at %v, want both between %v and %v", job.RunAt, job.CreatedAt, before, after)
	}
	row := jobRow{Task: "send_email", Payload: `{"user_id":7,"template":"a"}`, MaxAttempts: 25}
	if diff := cmp.Diff(row, onlyRow(t, db)); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
	if id := get[int64](t, db.Pool(), "select id from graphile_worker.jobs"); id != job.ID {
		t.Errorf("id %d, the row has %d", job.ID, id)
	}
}

func TestEnqueueOptions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	at := time.Date(2040, 1, 2, 3, 4, 5, 678901000, time.UTC)
	job := enqueue(t, client, mailTask, mailArgs{UserID: 1}, backfill.RunAt(at), backfill.Queue("mails"), backfill.Key("k"),
		backfill.PreserveRunAt, backfill.MaxAttempts(3), backfill.Flags("b", "a", "b"), backfill.PriorityFastHigh)
	want := &backfill.Job{
		Task: "send_email", Args: raw(`{"user_id":1}`), Queue: "mails", Key: "k", Priority: -10, MaxAttempts: 3, Flags: []string{"a", "b"},
	}
	if diff := cmp.Diff(want, job, withoutTimes); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	if !job.RunAt.Equal(at) {
		t.Errorf("run_at %v, want %v", job.RunAt, at)
	}
	row := jobRow{
		Task: "send_email", Payload: `{"user_id":1}`, Queue: "mails", Key: "k", Priority: -10, MaxAttempts: 3, Flags: `{"a": true, "b": true}`,
	}
	if diff := cmp.Diff(row, onlyRow(t, db)); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
	for _, opts := range [][]backfill.EnqueueOption{{}, {backfill.Queue("q")}, {backfill.Key("other")}} {
		delayed := enqueue(t, client, mailTask, mailArgs{}, append(opts, backfill.Delay(90*time.Minute))...)
		if wait := delayed.RunAt.Sub(delayed.CreatedAt); wait != 90*time.Minute {
			t.Errorf("delayed by %v", wait)
		}
	}
}

// Requests of several tasks, with and without queues and keys, in one call.
func TestEnqueueMixed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	jobs, err := client.Enqueue(t.Context(),
		TaskPurge.Request(backfill.NoArgs{}),
		TaskSendEmail.Request(SendEmailArgs{UserID: 7}),
		TaskNotify.Request([]NotifyArgs{{1}, {2}}),
		TaskNotify.Request(nil),
		backfill.Request{Task: "written_in_node"},
		backfill.Request{Task: "scalar", Args: raw("7"), Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	notify := &backfill.Job{Task: "notify", Args: raw(`[{"user_id": 1}, {"user_id": 2}]`), Key: "notify", MaxAttempts: 25, Revision: 1}
	want := []*backfill.Job{
		{Task: "purge", Args: raw(`{}`), Priority: 10, MaxAttempts: 5},
		{
			Task: "send_email", Args: raw(`{"user_id":7,"template":""}`), Queue: "user:7", Key: "welcome:7", Priority: -7, MaxAttempts: 5,
			Flags: []string{"mail"},
		},
		notify, notify,
		{Task: "written_in_node", Args: raw(`{}`), MaxAttempts: 25},
		{Task: "scalar", Args: raw(`7`), Queue: "q", MaxAttempts: 25},
	}
	if diff := cmp.Diff(want, jobs, withoutTimes); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	if jobs[2] != jobs[3] {
		t.Error("equal keys have different results")
	}
	wantJobs(t, db, 5)
	if none, err := client.Enqueue(t.Context()); none != nil || err != nil {
		t.Errorf("no requests: %v, %v", none, err)
	}
}

func TestEnqueueManyInOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	args := make([]mailArgs, 1500)
	for i := range args {
		args[i] = mailArgs{UserID: int64(i)}
	}
	for _, opts := range [][]backfill.EnqueueOption{nil, {backfill.Queue("q")}} {
		jobs, err := backfill.EnqueueMany(t.Context(), client, mailTask, args, opts...)
		if err != nil {
			t.Fatal(err)
		}
		for i, job := range jobs {
			if string(job.Args) != `{"user_id":`+strconv.Itoa(i)+`}` || i > 0 && job.ID <= jobs[i-1].ID {
				t.Fatalf("result %d: %+v", i, job)
			}
		}
		// The ids are those of the rows with these args.
		var ids []int64
		for _, job := range jobs {
			ids = append(ids, job.ID)
		}
		wrong := get[int](t, db.Pool(), `select count(*) from unnest($1::bigint[]) with ordinality as u(id, n)
			left join graphile_worker._private_jobs as j on j.id = u.id where (j.payload->>'user_id')::int is distinct from n - 1`, ids)
		if wrong != 0 {
			t.Errorf("%d ids are not those of their args", wrong)
		}
	}
	keyed := &backfill.Task[mailArgs]{Name: "send_email", Key: func(a mailArgs) string { return "user:" + strconv.FormatInt(9-a.UserID%2, 10) }}
	jobs, err := backfill.EnqueueMany(t.Context(), client, keyed, args[:5])
	if err != nil {
		t.Fatal(err)
	}
	if jobs[0] != jobs[2] || jobs[2] != jobs[4] || jobs[1] != jobs[3] || jobs[0] == jobs[1] {
		t.Errorf("equal keys do not share a result: %v", jobs)
	}
	if string(jobs[0].Args) != `{"user_id":4}` || string(jobs[1].Args) != `{"user_id":3}` || jobs[0].Revision != 2 {
		t.Errorf("not the last one won: %+v, %+v", jobs[0], jobs[1])
	}
	for _, job := range jobs { // whatever the order of the keys
		if args := get[string](t, db.Pool(), "select payload::text from graphile_worker._private_jobs where key = $1", job.Key); args != string(job.Args) {
			t.Errorf("the row of key %s has the args %s, want %s", job.Key, args, job.Args)
		}
	}
}

// Keyed jobs of a queue run in the order in which they were given, whatever their keys (R14, R25).
func TestKeyedManyKeepsTheOrderOfItsQueue(t *testing.T) {
	t.Parallel()
	for _, mode := range []backfill.KeyMode{backfill.Replace, backfill.UnsafeDedupe} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			client := newClient(t, pgtest.New(t))
			var ran []int64
			task, registry := taskOf("send_email", func(_ context.Context, args mailArgs) error { ran = append(ran, args.UserID); return nil })
			task.Key = func(a mailArgs) string { return strconv.FormatInt(a.UserID, 10) }
			args := []mailArgs{{UserID: 9}, {UserID: 10}, {UserID: 8}, {UserID: 1}, {UserID: 7}}
			if _, err := backfill.EnqueueMany(t.Context(), client, task, args, backfill.Queue("q"), mode); err != nil {
				t.Fatal(err)
			}
			runOnce(t, client, registry)
			if diff := cmp.Diff([]int64{9, 10, 8, 1, 7}, ran); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
}

// So do jobs with and without keys in one call.
func TestMixedJobsKeepTheOrderOfTheirQueue(t *testing.T) {
	t.Parallel()
	client := newClient(t, pgtest.New(t))
	q := backfill.Queue("q")
	jobs, err := client.Enqueue(t.Context(), mailTask.Request(mailArgs{}, q, backfill.Key("b")), mailTask.Request(mailArgs{}, q),
		mailTask.Request(mailArgs{}, q, backfill.Key("a"), backfill.UnsafeDedupe), mailTask.Request(mailArgs{}, q), mailTask.Request(mailArgs{}, q, backfill.Key("a")))
	if err != nil {
		t.Fatal(err)
	}
	for i, job := range jobs[1:4] {
		if job.ID <= jobs[i].ID {
			t.Errorf("job %d has the id %d, after %d", i+1, job.ID, jobs[i].ID)
		}
	}
	if jobs[4] != jobs[2] || jobs[2].Revision != 1 {
		t.Errorf("equal keys have the jobs %+v and %+v", jobs[2], jobs[4])
	}
}

func TestKeyModes(t *testing.T) {
	t.Parallel()
	first, second := time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := map[backfill.KeyMode]struct {
		args  string
		runAt time.Time
	}{
		backfill.Replace:       {`{"user_id":2}`, second},
		backfill.PreserveRunAt: {`{"user_id":2}`, first},
		backfill.UnsafeDedupe:  {`{"user_id":1}`, first},
		"":                     {`{"user_id":2}`, second},
	}
	for mode, test := range tests {
		t.Run("mode "+string(mode), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			opts := []backfill.EnqueueOption{backfill.Key("k")}
			if mode != "" {
				opts = append(opts, mode)
			}
			old := enqueue(t, client, mailTask, mailArgs{UserID: 1}, append(opts, backfill.RunAt(first))...)
			job := enqueue(t, client, mailTask, mailArgs{UserID: 2}, append(opts, backfill.RunAt(second))...)
			if job.ID != old.ID || old.Revision != 0 || job.Revision != 1 || string(job.Args) != test.args || !job.RunAt.Equal(test.runAt) {
				t.Errorf("got %+v, want args %s at %v", job, test.args, test.runAt)
			}
			wantJobs(t, db, 1)
		})
	}
}

// A job that runs keeps running without its key, and a new one waits; unsafe_dedupe drops the
// request.
func TestKeysOfRunningJobs(t *testing.T) {
	t.Parallel()
	for _, mode := range []backfill.KeyMode{backfill.Replace, backfill.PreserveRunAt, backfill.UnsafeDedupe} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			client := newClient(t, db)
			task := &backfill.Task[mailArgs]{Name: "send_email", Key: func(mailArgs) string { return "k" }, KeyMode: mode}
			var again *backfill.Job
			registry := backfill.NewRegistry(backfill.Handle(task, func(ctx context.Context, args mailArgs) (err error) {
				if args.UserID == 1 {
					again, err = backfill.Enqueue(ctx, backfill.FromContext(ctx), task, mailArgs{UserID: 2})
				}
				return err
			}))
			job := enqueue(t, client, task, mailArgs{UserID: 1})
			runOnce(t, client, registry)
			if dedupe := mode == backfill.UnsafeDedupe; (again.ID == job.ID) != dedupe {
				t.Errorf("enqueued job %d, then %d", job.ID, again.ID)
			}
			runOnce(t, client, registry)
			wantJobs(t, db, 0)
		})
	}
}

// tracer counts what is sent to the database.
type tracer struct{ sent atomic.Int64 }

func (c *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.sent.Add(1)
	return ctx
}
func (c *tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.sent.Add(1)
	return ctx
}
func (c *tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// Each limit of the wire, by every way to enqueue: what is at the limit is stored, and what is
// beyond is refused before anything is sent, with the limit in the error; nothing else of the call
// is stored either.
func TestWireLimits(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	trace := &tracer{}
	pool := poolOf(t, db.URL, func(config *pgxpool.Config) { config.ConnConfig.Tracer = trace })
	client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	chars := func(n int) string { return strings.Repeat("é", n) } // of two bytes
	first, last := time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC), time.Date(294276, 12, 31, 23, 59, 59, 999999000, time.UTC)
	within := []backfill.Request{
		{Task: chars(128)},
		{Task: "t", Queue: chars(128)},
		{Task: "t", Key: chars(512)},
		{Task: "t", Key: "k", KeyMode: backfill.UnsafeDedupe, Queue: chars(128)},
		{Task: "t", MaxAttempts: math.MaxInt16, Priority: math.MaxInt16},
		{Task: "t", MaxAttempts: 1, Priority: math.MinInt16},
		{Task: "t", RunAt: first},
		{Task: "t", RunAt: last, Queue: "q"},
		{Task: "t", Args: raw(`"\u0000"`), Flags: []string{chars(1000), `"`, "{}"}},
		{Task: "t", Args: raw(strings.Repeat("[", 500) + strings.Repeat("]", 500))},
		{Task: "t", Args: raw(`"` + strings.Repeat("x", 1<<20) + `"`)},
	}
	for i, request := range within { // alone: the way of single jobs
		if _, err := client.Enqueue(t.Context(), request); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	}
	jobs, err := client.Enqueue(t.Context(), within...)
	if err != nil {
		t.Fatal(err)
	}
	if !jobs[6].RunAt.Equal(first) || !jobs[7].RunAt.Equal(last) {
		t.Errorf("run_at %v and %v", jobs[6].RunAt, jobs[7].RunAt)
	}
	beyond := map[string]backfill.Request{
		"task name has 129 characters: at most 128 are allowed": {Task: chars(129)},
		"task name is empty: want 1 to 128 characters":          {},
		"queue has 129 characters: at most 128 are allowed":     {Task: "t", Queue: chars(129)},
		"key has 513 characters: at most 512 are allowed":       {Task: "t", Key: chars(513)},
		"max_attempts is 32768: want 1 to 32767":                {Task: "t", MaxAttempts: 32768},
		"max_attempts is -1: want 1 to 32767":                   {Task: "t", MaxAttempts: -1},
		"PostgreSQL has times from 4713 BC to 294276":           {Task: "t", RunAt: last.Add(time.Microsecond)},
		"times from 4713 BC to 294276":                          {Task: "t", RunAt: first.Add(-time.Nanosecond)},
		"flag 0 is empty":                                       {Task: "t", Flags: []string{""}},
		"args are not valid JSON":                               {Task: "t", Args: raw(`{"a":`)},
		"args are not valid UTF-8":                              {Task: "t", Args: raw("\"\xff\"")},
		"delay -1ns is negative":                                {Task: "t", Delay: -1},
		"contains a NUL character":                              {Task: "a\x00b"},
	}
	stored, sent := len(jobRows(t, db)), trace.sent.Load()
	for want, request := range beyond {
		_, err := client.Enqueue(t.Context(), backfill.Request{Task: "fine"}, request, backfill.Request{Task: "fine", Key: "fine"})
		wantError(t, err, "enqueue: request 1 (task ")
		wantError(t, err, want)
		_, err = client.WithTx(nil).Enqueue(t.Context(), request)
		wantError(t, err, want)
	}
	if trace.sent.Load() != sent {
		t.Errorf("%d statements were sent for requests that are wrong", trace.sent.Load()-sent)
	}
	wantJobs(t, db, stored)
}

// What only the server finds wrong is all or none, too.
func TestEnqueueRefusedByTheServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	client := newClient(t, db)
	exec(t, db.Pool(), "insert into graphile_worker._private_tasks (identifier) values ('fine')")
	if _, err := db.Pool().Exec(t.Context(), "alter table graphile_worker._private_jobs add check (priority <> 13)"); err != nil {
		t.Fatal(err)
	}
	for _, requests := range [][]backfill.Request{
		{{Task: "fine"}, {Task: "fine", Priority: 13}},
		{{Task: "fine"}, {Task: "fine", Key: "k"}, {Task: "new", Key: "k2", Priority: 13}},
		{{Task: "fine", Priority: 13}},
	} {
		_, err := client.Enqueue(t.Context(), requests...)
		wantError(t, err, "enqueue: insert jobs: ERROR: new row")
	}
	wantJobs(t, db, 0)
}
