// Package container starts a PostgreSQL in a container, for tests where Docker is all there is:
//
//	func TestMain(m *testing.M) {
//		pgtest.UseServer(container.Start)
//		os.Exit(m.Run())
//	}
//
// It is a module of its own, so that only those who import it have testcontainers-go and what comes
// with that in their go.mod.
package container

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
)

const (
	defaultImage  = "postgres:17-alpine"
	removeTimeout = 30 * time.Second
)

// Start starts a PostgreSQL in a container and returns its URL. The image is that of the
// environment variable BACKFILL_TEST_PG_IMAGE, or else postgres:17-alpine, and is pulled if it is
// absent.
//
// The container is removed after the test binary by testcontainers-go's own watchdog, Ryuk. If you
// turn Ryuk off, remove it yourself. The variables of testcontainers-go hold, and so does
// DOCKER_HOST.
func Start(ctx context.Context) (url string, err error) {
	image := os.Getenv("BACKFILL_TEST_PG_IMAGE")
	if image == "" {
		image = defaultImage
	}
	started, err := postgres.Run(ctx, image,
		postgres.WithDatabase("postgres"),
		postgres.WithUsername("postgres"),
		postgres.WithPassword(rand.Text()),
		postgres.BasicWaitStrategies(),
		testcontainers.WithCmd("postgres", "-c", "fsync=off", "-c", "synchronous_commit=off",
			"-c", "full_page_writes=off", "-c", "max_connections=300"),
	)
	if err == nil {
		url, err = started.ConnectionString(ctx, "sslmode=disable")
	}
	if err != nil {
		remove(ctx, started)
		return "", fmt.Errorf("start a container of %s: %w", image, err)
	}
	return url, nil
}

// remove removes a container that is of no use. Its error would say less than that of the start,
// and Ryuk tries again.
func remove(ctx context.Context, started *postgres.PostgresContainer) {
	if started == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	_ = started.Terminate(ctx)
}
