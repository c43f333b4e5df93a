// Package conviction decides what becomes of the jobs that a dead worker held, and finds the one
// that kills workers. It is pure: no clock, no database, no goroutine, nothing but the standard
// library. The runtime does not call it yet. docs/design.md has the rule; the tests have a model of
// a fleet, and what each part of the rule is for.
//
// The order of a call: [Death.Judge] at the rescue; [Worker.Next] whenever a worker would claim,
// and at each heartbeat; [NewTrial] when it says [Try]; [Trial.Over] when a job of a trial ends,
// and when its window has passed; [Pauses] at a conviction.
//
// # What is stored
//
// A job that is a suspect is a locked job: its locked_by is backfill-suspect.<cohort>.<attempt>[k],
// its queue's is backfill-suspect.<cohort>. The cohort is the number of the worker that left it:
// unique, and known to every rescuer. The attempt is what attempts is after the refund, so that R3
// tells superseded rows as ever.
//
//	create table backfill_crashes (
//	  job_id    bigint not null,
//	  worker_id text not null,        -- who held it
//	  token     text not null,        -- its lease; of a later one the row says nothing
//	  began     timestamptz not null, -- when the lease began; renewals move locked_at
//	  tried     boolean not null default false, -- the lease is a trial's
//	  age       interval,             -- last heartbeat - began; null: not declared dead
//	  alone     boolean not null default false, -- Ruling.Alone
//	  passed    boolean not null default false, -- left out by a trial of this death's cohort
//	  key       text,                 -- the job's key, while it has one
//	  primary key (job_id, worker_id)
//	);
//	alter table backfill_workers
//	  add column held integer,            -- jobs held when it was declared dead
//	  add column emptying_at timestamptz, -- since when it claims nothing; null: it claims
//	  add column trial_at timestamptz,    -- since when it tries
//	  add column trial_cohort integer;    -- whom
//
// A record has the rows with an age whose worker has no stopping_at: a worker that was declared
// dead and writes its notice later takes its evidence back. Rows outlive their tombstones: a worker
// without a row gave no notice. A cohort is proven if its number is that of a worker with a
// trial_cohort and without notice, and cleared if a dead worker without notice has it as
// trial_cohort.
//
// # Statements
//
// Each is a transaction. All lock rows by id and skip locked ones (R16).
//
//   - Tombstone (R4). It waits for claims in flight, so that afterwards nothing is added.
//   - Census: update backfill_workers set held = (select count(*) of its jobs, by prefix) where
//     held is null. It comes before the first release and is written once. So of two jobs, one of
//     which somebody has locked for the moment, the later one does not look as if it had been
//     alone.
//   - Rescue, in batches: lock jobs by prefix; read their records; [Death.Judge]; in the same
//     transaction insert or update backfill_crashes, and release, park, delete or dead-letter.
//     Parking moves the queue's row from the claim's token to the cohort's; queues of released jobs
//     follow when no job is left (R7). Two rescuers get disjoint batches. One that dies takes its
//     batch back, and rescued_at is still null. The primary key counts a death once.
//   - The same, for the one job that a trial held: not before ten seconds after the last heartbeat,
//     for a worker may have died with it. A worker counts as dead for [Around] as soon as its
//     heartbeat is that late, declared or not.
//   - Look, with each heartbeat: is there a row in backfill_crashes? If so, the suspects, the
//     deaths of [Around], and which workers empty or try. While all is well there is none but those
//     of long leases.
//   - Empty: set emptying_at where no living worker has one, under an advisory lock of the
//     transaction, for two would both see none. Two that empty at once do no harm, they only claim
//     less.
//   - Trial: the claim's gate (R5); set trial_at and trial_cohort; take the drawn rows where
//     locked_by is still that of the cohort, with attempts + 1 and an ordinary token, and their
//     queues; insert rows with tried; set passed on the rest of the cohort. Two workers that draw
//     from one cohort get disjoint jobs, and each has fewer. A trial may take fewer than were
//     drawn: any subset is sound.
//   - Acquittal: delete the rows of the trial's jobs, but for began of those that run on, and clear
//     trial_at, in one statement. A worker that dies before leaves suspects, and none is convicted
//     for it.
//   - Return, at the end of a drain or by a fence: [Death.Judge] with Notice. What was tried is
//     parked again under the number of the worker that returns it; what may start once and has not
//     started is released.
//   - Renewal, by any worker, every half hour, as leases are renewed: parked rows, and their
//     queues. The first renewal of a lease inserts its row with began, before it moves locked_at.
//   - Drop: a parked row that was superseded is deleted and its queue freed. Its rows go to the job
//     that has the key now, those that it has already left out; without such a job they are
//     deleted.
//   - Sweep: rows whose job is gone; queues under backfill-suspect that no parked job belongs to,
//     because somebody deleted it.
//   - Convict: the dead letter, and if [Pauses] the pause of the task, in one transaction.
//
// # Peers
//
// A Node worker sees a locked job. It passes it and its queue, supersedes it by a keyed add, and
// may delete it or fail it after four hours without renewal, when no Go worker has lived for that
// long. If it sweeps it then, the job is free and keeps its record: its next death parks it again.
package conviction
