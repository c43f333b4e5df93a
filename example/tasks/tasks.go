// Package tasks has the tasks of the example: what happens after somebody has signed up.
//
// A task is a function or a method with a //backfill:task line. Command backfillgen writes
// backfill_gen.go for them: a descriptor of each task, a Client with a function to enqueue it, and
// NewRegistry, which binds them all to their handlers for a worker.
//
// Jobs run at least once. Each handler says what it does when it runs again.
package tasks

//go:generate go run github.com/backfillhq/go/cmd/backfillgen
