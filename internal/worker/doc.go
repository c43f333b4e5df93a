// Package worker claims jobs, runs them, records how they ended, wakes when there is more to do,
// and drains when it is told to stop.
//
// It is concurrency over a [Store] and contains no SQL. Package pg implements Store on PostgreSQL;
// the tests of this package implement it in memory and run in testing/synctest, without sleeps.
//
// The life of a job, and the file of each step:
//
//	claim.go    how many jobs to ask for, and when
//	buffer.go   what was claimed and has not started
//	execute.go  the slots that run handlers
//	finish.go   outcomes, recorded in batches
//	wake.go     notifications, the poll, due jobs
//	drain.go    stopping
//
// The rules R1 to R27 that comments refer to are those of docs/design.md.
package worker
