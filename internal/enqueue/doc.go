// Package enqueue takes the enqueues of many callers to the database, each on its own while few
// insert, and folded into batches when many do. After a commit it notifies the workers.
//
// It is concurrency over an [Inserter] and contains no SQL. Package pg implements Inserter.
package enqueue
