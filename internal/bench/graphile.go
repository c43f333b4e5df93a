package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"syscall"
	"time"

	"github.com/backfillhq/go/internal/interop/npm"
)

// graphile is Graphile Worker, the real one from npm, on tables that it made itself. It logs nothing.
type graphile struct {
	tables
	node npm.Installation
	how  string
	more map[string]any // options
}

//go:embed peer.mjs
var peerScript string

// graphiles installs Graphile Worker, and returns it in the ways that it takes part: as its defaults are, one job at a time; and
// with what makes it fast.
func (l *lab) graphiles(ctx context.Context) ([]system, error) {
	node, err := npm.Install(ctx)
	if err != nil {
		return nil, err
	}
	t := tables{l, "peer"}
	return []system{
		graphile{t, node, "defaults", nil},
		graphile{t, node, "24 jobs, local queue 500, batches", map[string]any{"preset": map[string]any{"worker": map[string]any{
			"concurrentJobs": 24, "localQueue": map[string]any{"size": 500}, "completeJobBatchDelay": 0, "failJobBatchDelay": 0,
		}}}},
	}, nil
}

func isPeer(s system) bool { return takesPart[graphile](s) }

func (g graphile) name() string { return "Graphile Worker, " + g.how }

func (g graphile) startServing(ctx context.Context, jobs int) (*child, error) {
	options := map[string]any{"connectionString": g.url, "schema": g.schema}
	maps.Copy(options, g.more)
	encoded, err := json.Marshal(map[string]any{"options": options, "task": taskName, "jobs": jobs})
	if err != nil {
		return nil, fmt.Errorf("encode a child's spec: %w", err)
	}
	cmd := g.node.Command(ctx, peerScript)
	cmd.Env = append(os.Environ(), childVariable+"="+string(encoded))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return startChild(cmd)
}
