// Package wire has the words that enqueuing, working and the statements share: what a job is, what
// a lease of it is, and what a request to enqueue one says. Names and limits are Graphile Worker's.
package wire
