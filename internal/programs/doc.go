// Package programs has programs as users write them, and tests them as processes. It is a module of
// its own, so that neither ORMs nor OpenTelemetry get into the go.mod of the runtime or of its
// users.
//
//   - orders: a shop's tables and tasks, and how they are tested without a worker.
//   - web: takes orders over HTTP. The order and its job are in one transaction.
//   - worker: runs the jobs, with logs, traces, metrics, probes and a graceful stop.
//   - telemetry: what both need for logs and traces.
//   - orm: jobs in the transactions of GORM, bun, sqlx and ent.
package programs
