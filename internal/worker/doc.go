// Package worker claims jobs, runs them, records how they ended, wakes when there is more to do,
// and drains when it is told to stop.
//
// It is concurrency over a [Store] and contains no SQL. Package pg implements Store on PostgreSQL;
// the tests of this package implement it in memory and run in testing/synctest, without sleeps.
// Both keep the contract in package storetest.
//
// Read what a worker knows and decides first. This is a [core] without lock, clock and I/O:
//
//	lease.go    one claim of one job, and the table of those that the worker holds
//	core.go     the events of a worker's life, and what follows from each
//	demand.go   when to claim
//	pace.go     how much to claim
//	buffer.go   what was claimed and has not started
//	outbox.go   outcomes that wait to be recorded
//	doubt.go    what may be locked and is not in memory
//	trials.go   jobs that workers have died with
//	durations.go  how long jobs take; overlong.go: which take too long
//	stuck.go    handlers that ignore the end of their contexts; stack.go: where handlers are
//
// Then the goroutines around it, in the order of a job's life:
//
//	worker.go    Run, and how events and actions pass
//	dispatch.go  claims
//	execute.go   the slots that run handlers
//	flush.go     records outcomes
//	wake.go      notifications, and what proves the listener
//	beat.go      heartbeats and the fence; observer.go: who is dead
//	rescue.go    what becomes of a dead worker's jobs; suspects.go: trials of some
//	upkeep.go    renewals and sweeps; survey.go: what waits, and who holds locks
//	cron.go      the crontab
//	drain.go     stopping
//	troubles.go  what fails again and again, in the log
//
// The rules (R1 and so on) that comments refer to are those of docs/design.md.
package worker
