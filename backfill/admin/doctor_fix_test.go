package admin_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/internal/dbtest"
)

// spoil does what the doctor can put right by itself, and one thing that somebody has to decide
// about.
func (r *rig) spoil() {
	r.Helper()
	execute(r.T, r.db, `create or replace function graphile_worker.complete_jobs(job_ids bigint[]) returns setof graphile_worker._private_jobs language sql as
		'delete from graphile_worker._private_jobs where id = any(job_ids) returning *';
		drop function graphile_worker.remove_job;
		select graphile_worker.add_job('sync', queue_name := 'lost', run_at := now() + interval '1 hour');
		delete from graphile_worker._private_job_queues;
		select graphile_worker.add_job('sync', queue_name := 'q', run_at := now() + interval '1 hour');
		update graphile_worker._private_job_queues set locked_by = 'pool-123456789abcdef012', locked_at = now() - interval '5 minutes';
		create function public.f() returns trigger language plpgsql as 'begin return new; end';
		create trigger audit before insert on graphile_worker._private_jobs for each row execute function public.f()`)
}

func TestDoctorFix(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := as(t, "ada")
	if preview, err := r.admin.PreviewFixes(ctx); err != nil || preview.Token != "" {
		t.Fatalf("a healthy database: %+v, %v", preview, err)
	}
	r.spoil()
	preview, err := r.admin.PreviewFixes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	codes := ""
	for _, f := range preview.Fixes {
		codes += string(f.Code) + " "
	}
	if codes != "function_changed function_changed dangling_queue queue_locked " || len(preview.Left) == 0 {
		t.Fatalf("fixes %s, left %+v", codes, preview.Left)
	}
	if _, err := r.admin.Fix(ctx, preview.Token+"0", admin.ChangeOptions{}); !errors.Is(err, admin.ErrFixChanged) {
		t.Errorf("another token: %v", err)
	}
	if _, err := r.admin.Fix(ctx, "nonsense", admin.ChangeOptions{}); !errors.Is(err, admin.ErrInvalid) {
		t.Errorf("no token: %v", err)
	}
	fixed, err := r.admin.Fix(ctx, preview.Token, admin.ChangeOptions{Reason: "after the restore"})
	if err != nil || len(fixed.Fixes) != 4 {
		t.Fatalf("fixed %+v, %v", fixed, err)
	}
	r.finds(admin.TriggerForeign)
	if got := dbtest.Get[string](t, r.db.Pool(), "select concat_ws('|', principal, action, target_kind, reason, jsonb_array_length(detail -> 'fixes')) from graphile_worker.backfill_audit"); got != "ada|fix|database|after the restore|4" {
		t.Errorf("the record is %s", got)
	}
	if got := dbtest.Get[int](t, r.db.Pool(), "select count(*)::int from graphile_worker._private_jobs as j join graphile_worker._private_job_queues as s on s.id = j.job_queue_id"); got != 2 {
		t.Errorf("%d jobs have queues", got)
	}
	if _, err := r.admin.Fix(ctx, preview.Token, admin.ChangeOptions{}); !errors.Is(err, admin.ErrFixChanged) {
		t.Errorf("a token that was used: %v", err)
	}
}

// A token is for what the preview has shown, and for nothing else.
func TestDoctorFixOfAnotherState(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spoil()
	preview, err := r.admin.PreviewFixes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.run("update graphile_worker._private_job_queues set locked_at = now() - interval '2 minutes'") // somebody else's lock
	if _, err := r.admin.Fix(t.Context(), preview.Token, admin.ChangeOptions{}); !errors.Is(err, admin.ErrFixChanged) {
		t.Errorf("%v", err)
	}
	if got := dbtest.Get[bool](t, r.db.Pool(), "select to_regprocedure('graphile_worker.remove_job(text)') is null"); !got {
		t.Error("something was put right")
	}
}

// All is put right, with the record, or nothing is.
func TestDoctorFixIsOneTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spoil()
	preview, err := r.admin.PreviewFixes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.run("alter table graphile_worker.backfill_audit add constraint full_disk check (false) not valid")
	if _, err := r.admin.Fix(t.Context(), preview.Token, admin.ChangeOptions{}); err == nil || !strings.Contains(err.Error(), "full_disk") {
		t.Errorf("%v", err)
	}
	if got := dbtest.Get[bool](t, r.db.Pool(), "select to_regprocedure('graphile_worker.remove_job(text)') is null"); !got {
		t.Error("something was put right without a record")
	}
	r.run("alter table graphile_worker.backfill_audit drop constraint full_disk")
	forbidden := openAdmin(t, r.db.URL, admin.WithAuthorize(func(_ context.Context, _ admin.Principal, action admin.Action, _ admin.Target) bool {
		return action == admin.ActionRead
	}))
	if _, err := forbidden.Fix(t.Context(), preview.Token, admin.ChangeOptions{}); !errors.Is(err, admin.ErrForbidden) {
		t.Errorf("who may only read: %v", err)
	}
}

// A token is used once, also if the same is wrong again.
func TestDoctorFixIsUsedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const drop = "drop function graphile_worker.remove_job"
	r.run(drop)
	preview, err := r.admin.PreviewFixes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.Fix(as(t, "ada"), preview.Token, admin.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	r.run(drop)
	if _, err := r.admin.Fix(as(t, "bob"), preview.Token, admin.ChangeOptions{}); !errors.Is(err, admin.ErrFixChanged) || !strings.Contains(err.Error(), "by ada") {
		t.Errorf("a token that was used: %v", err)
	}
	r.finds(admin.FunctionChanged, "remove_job")
}
