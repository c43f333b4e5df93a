package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// HandlerFunc runs a job. Its error decides how the job ends, like the error of a handler.
type HandlerFunc func(ctx context.Context, job *Job) error

// Middleware wraps the function that runs jobs. [Client.NewWorker] calls it once for each task; if
// it panics or returns nil, NewWorker returns an error. The function that it returns is called for
// each job, from many goroutines, inside the task's timeout.
//
// The innermost HandlerFunc decodes job.Args and calls the task's handler. If that panics, it
// returns a *[PanicError]. A panic in the middleware itself counts as a failure of the job, too.
//
// Middleware may change the job before it calls next, Args included.
type Middleware func(next HandlerFunc) HandlerFunc

// chain wraps handler; the first middleware becomes the outermost.
func chain(handler HandlerFunc, middleware []Middleware) (HandlerFunc, error) {
	for i, m := range slices.Backward(middleware) {
		wrapped, err := wrap(m, handler)
		if err != nil {
			return nil, fmt.Errorf("WithMiddleware: argument %d: %w", i+1, err)
		}
		handler = wrapped
	}
	return handler, nil
}

func wrap(middleware Middleware, next HandlerFunc) (wrapped HandlerFunc, err error) {
	defer recoverAs("wrap a handler", &err)
	if wrapped = middleware(next); wrapped == nil {
		return nil, errors.New("it returned nil: return a HandlerFunc that calls next")
	}
	return wrapped, nil
}
