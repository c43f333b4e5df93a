package backfillotel_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/backfill/admin"
	"github.com/backfillhq/go/backfill/backfillotel"
)

// processRole is set in a child of the test binary: worker, or observer, which has none.
const (
	processRole = "BACKFILLOTEL_TEST_ROLE"
	processURL  = "BACKFILLOTEL_TEST_URL"
	processAddr = "BACKFILLOTEL_TEST_ADDR" // where it is scraped
)

func TestMain(m *testing.M) {
	role := os.Getenv(processRole)
	if role == "" {
		flag.Parse()
		_ = flag.Set("test.parallel", "16") // the stages of faults wait, and have to do so at the same time
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := beProcess(ctx, role, os.Getenv(processURL), os.Getenv(processAddr))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// beProcess is a process of a fleet: it observes the database, and works unless it is an observer.
func beProcess(ctx context.Context, role, databaseURL, addr string) error {
	exporter, err := prometheus.New()
	if err != nil {
		return err
	}
	telemetry, err := backfillotel.New(backfillotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(exporter))))
	if err != nil {
		return err
	}
	a, err := admin.Open(databaseURL)
	if err != nil {
		return err
	}
	defer a.Close()
	if _, err := telemetry.Observe(a); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: promhttp.Handler(), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	if role == "observer" {
		<-ctx.Done()
		return nil
	}
	client, err := backfill.Open(ctx, databaseURL, telemetry.Client())
	if err != nil {
		return err
	}
	defer client.Close()
	worker, err := client.NewWorker(stagedTasks(), telemetry.Worker(), backfill.WithConcurrency(4), backfill.WithDrainTimeout(time.Second))
	if err != nil {
		return err
	}
	return worker.Run(ctx)
}

// stagedTasks are the tasks of staged fleets. What is special about a job is in its args.
func stagedTasks() *backfill.Registry {
	type args struct {
		Fail bool   // for good
		Hang string // until this file is gone
		Deaf bool   // ignore the end of the context, until Hang is gone
		More int    // jobs to enqueue, which do nothing
	}
	work := func(ctx context.Context, a args) error {
		for a.Hang != "" {
			if _, err := os.Stat(a.Hang); errors.Is(err, os.ErrNotExist) {
				break
			}
			if ctx.Err() != nil && !a.Deaf {
				return context.Cause(ctx)
			}
			<-time.After(20 * time.Millisecond) // whatever the context says: it is looked at above
		}
		if a.More > 0 {
			requests := slices.Repeat([]backfill.Request{{Task: "work"}}, a.More)
			if _, err := backfill.FromContext(ctx).Enqueue(ctx, requests...); err != nil {
				return err
			}
		}
		if a.Fail {
			return backfill.Permanent(errors.New("as it was asked to"))
		}
		return nil
	}
	return backfill.NewRegistry(
		backfill.Handle(&backfill.Task[args]{Name: "work"}, work),
		backfill.Handle(&backfill.Task[args]{Name: "limited", Timeout: time.Second}, work),
	)
}

// process is a process of a staged fleet.
type process struct {
	addr string
	cmd  *exec.Cmd
	out  strings.Builder
	done chan struct{}
}

func startProcess(t *testing.T, role, databaseURL, addr string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{addr: addr, cmd: exec.Command(program), done: make(chan struct{})} //nolint:noctx // it is ended by stop or kill
	p.cmd.Env = append(os.Environ(), processRole+"="+role, processURL+"="+databaseURL, processAddr+"="+addr, "GOMAXPROCS=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s at %s:\n%s", role, addr, p.out.String())
		}
	})
	return p
}

// stop ends it as a platform does.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func asJSON(t *testing.T, v any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
