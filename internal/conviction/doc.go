// Package conviction decides what becomes of the jobs that a dead worker held, and finds the one
// that kills workers. It is pure: no clock, no database, no goroutine, nothing but the standard
// library. docs/design.md has the rule; the tests have a model of a fleet, and what each part of
// the rule is for.
//
// The order of a call: [Death.Judge] at the rescue; [Worker.Next] whenever a worker would claim,
// and at each heartbeat; [NewTrial] when it says [Try]; [Trial.Over] when a job of a trial ends,
// and when its window has passed; [Pauses] at a conviction.
//
// # What is stored
//
// A job that is a suspect is a locked job: its locked_by is backfill-suspect.<cohort>.<attempt>[k],
// its queue's is backfill-suspect.<cohort>. The cohort is the id of the worker that left it,
// without "pool-": unique, and known to every rescuer. The attempt is what attempts is after the
// refund, so that R3 tells superseded rows as ever. The table backfill_crashes has the evidence
// (migration own/0009_crashes.sql), and the rows of workers what each held, and whether it empties
// or tries.
//
// A record has the rows with an age whose worker has no stopping_at: a worker that was declared
// dead and writes its notice later takes its evidence back. Rows outlive their tombstones: a worker
// without a row gave no notice. A cohort is proven if its worker died in a trial without notice,
// and cleared if another worker died so in a trial of it.
//
// # Races
//
// Each statement (query/crashes.sql of package pg) locks rows by id and skips locked ones (R16).
//
//   - After the tombstone (R4), nothing is added to what the worker held. The number is noted once,
//     before the first release. So of two jobs, one of which somebody has locked for the moment,
//     the later one does not look as if it had been alone.
//   - A batch of the rescue is one transaction: one that dies takes all of it back. One worker of
//     the fleet rescues at a time, and the primary key counts a death once.
//   - The one job that a trial held is judged no sooner than ten seconds after the last heartbeat,
//     for a worker may have died with it. A worker counts as dead for [Around] as soon as its
//     heartbeat is that late, declared or not.
//   - Two workers that empty at once do no harm, they only claim less.
//   - Two workers that draw from one cohort get disjoint jobs, and each has fewer. Any subset of
//     what was drawn is sound.
//   - Acquittal deletes the evidence and ends the trial in one statement. A worker that dies before
//     leaves suspects, and none is convicted for it.
//   - A suspect that was superseded is deleted by whoever looks next, and its evidence goes to the
//     job that has the key now, apart from that which the job already has.
//
// # Peers
//
// A Node worker sees a locked job. It passes it and its queue, supersedes it by a keyed add, and
// may delete it or fail it after four hours without renewal, when no Go worker has lived for that
// long. If it sweeps it then, the job is free and keeps its record: its next death parks it again.
package conviction
