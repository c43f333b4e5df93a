package pgtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// chosen is what UseServer has set.
var chosen struct {
	sync.Mutex
	start   func(context.Context) (string, error)
	started bool // the server of this test binary: another one is of no use any more
	late    bool
}

// UseServer makes the tests of this test binary use the server that start starts, or finds, and
// whose connection string it returns: a URL, or keywords with values. Call it in an init function
// or in TestMain. A later call takes the place of an earlier one, and nil takes it back. After the
// first call of [New] or [Empty] it is too late, and their next call fails the test.
//
// New and Empty call start once, when they need the server first. If it returns an error, all their
// calls fail with it. Its ctx is for the start alone: it ends after 5 minutes, and soon after start
// has returned. So do not bind the server's process to it. Nor does pgtest stop the server: stop it
// in TestMain after m.Run, or let it end by itself, as containers of testcontainers-go do.
//
// The role needs CREATEDB, and the databases are dropped after each test, as on the server of
// DATABASE_URL.
func UseServer(start func(ctx context.Context) (url string, err error)) {
	chosen.Lock()
	defer chosen.Unlock()
	chosen.start = start
	chosen.late = chosen.started
}

// chosenStart is what UseServer was called with, or nil. Later calls of it are too late.
func chosenStart() func(context.Context) (string, error) {
	chosen.Lock()
	defer chosen.Unlock()
	chosen.started = true
	return chosen.start
}

// startChosen starts the user's server.
func startChosen(ctx context.Context, start func(context.Context) (string, error)) (*server, error) {
	url, err := start(ctx)
	if err != nil {
		return nil, fmt.Errorf("start the server of UseServer: %w", err)
	}
	if url == "" { // which would connect to what the PG* variables name
		return nil, errors.New("start the server of UseServer: it returned no connection string")
	}
	return &server{url: url}, nil
}

func checkLate() error {
	chosen.Lock()
	defer chosen.Unlock()
	if chosen.late {
		return errors.New("UseServer was called after the first New or Empty: call it in an init function or in TestMain")
	}
	return nil
}
