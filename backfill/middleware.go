package backfill

import (
	"context"
	"slices"
)

// HandlerFunc runs a job. Its error decides how the job ends, as that of a handler does.
type HandlerFunc func(ctx context.Context, job *Job) error

// Middleware wraps what runs jobs. It is called once for each task when a worker is made, and what it returns once for each job,
// from many goroutines. The innermost HandlerFunc decodes job.Args and calls the task's handler, inside the task's timeout; a
// panic comes out of it as a *[PanicError].
//
// The job is the middleware's to change: a handler's args are decoded from the job that arrives there.
type Middleware func(next HandlerFunc) HandlerFunc

// chain wraps handler; the first middleware becomes the outermost.
func chain(handler HandlerFunc, middleware []Middleware) HandlerFunc {
	for _, wrap := range slices.Backward(middleware) {
		handler = wrap(handler)
	}
	return handler
}
