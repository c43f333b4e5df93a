// Package orm tests that jobs are enqueued in the transactions of ORMs, and traces carried by jobs,
// as docs/enqueuing.md says. It is a module of its own, so that no ORM gets into the go.mod of the
// runtime or of its users.
package orm
