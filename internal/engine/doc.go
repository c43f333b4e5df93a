// Package engine is the worker: it claims jobs, runs them, records how they ended, wakes when there is more to do, and
// drains when it is told to stop. It also folds concurrent enqueues into batches and nudges workers after a commit.
//
// It is concurrency over a [Store] and contains no SQL. Package pgstore implements Store on PostgreSQL; the tests of this
// package implement it in memory and run in testing/synctest, without sleeps.
//
// The life of a job, and the file where each step stands:
//
//	claim.go    how many jobs to ask for, and when
//	buffer.go   what was claimed and has not started
//	execute.go  the slots that run handlers
//	finish.go   outcomes, recorded in batches
//	wake.go     notifications, the poll, due jobs
//	drain.go    stopping
//
// Rules R1 to R27, which comments here refer to, are those of docs/design.md.
package engine
