// Command with runs another command with a PostgreSQL:
//
//	go run ./internal/devpg/with [-major N] -- command [argument ...]
//
// It finds or starts a server, names it in the command's DATABASE_URL, passes
// signals on, and exits as the command does. A server that it started is gone
// afterwards.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/backfillhq/go/internal/devpg"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "with:", err)
	}
	os.Exit(code)
}

// run returns the exit code. It is 2 for a wrong call and 1 when there is no
// server; 127 and 128+signal are as in a shell.
func run() (code int, err error) {
	major := flag.Int("major", 0, "PostgreSQL's major `version`; a private server of it is started")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: with [-major N] -- command [argument ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		return 2, nil
	}

	// From here on a signal is for the command, or ends the start.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	server, err := start(signals, *major)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()

	cmd := exec.Command(flag.Arg(0), flag.Args()[1:]...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+server.URL)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			// It may have ended just now.
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			return exitCode(cmd.ProcessState, err)
		}
	}
}

// start starts the server, unless a signal comes first.
func start(signals <-chan os.Signal, major int) (*devpg.Server, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	started, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case s := <-signals:
			cancel(fmt.Errorf("stopped by signal: %s", s))
		case <-started:
		}
	}()
	server, err := devpg.Start(ctx, devpg.Config{Major: major})
	close(started)
	<-watched
	if cause := context.Cause(ctx); err == nil && cause != nil {
		err = errors.Join(cause, server.Stop())
	}
	cancel(nil)
	return server, err
}

func exitCode(state *os.ProcessState, err error) (int, error) {
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return 1, err
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return state.ExitCode(), nil
}
