//go:build testcontainers

package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
)

const defaultImage = "postgres:17-alpine"

// startContainer starts a PostgreSQL in a container and returns its URL. It is
// removed after the test binary by testcontainers' own watchdog, Ryuk; who
// turns that off has to remove it.
func startContainer(ctx context.Context) (string, error) {
	image := os.Getenv("BACKFILL_TEST_PG_IMAGE")
	if image == "" {
		image = defaultImage
	}
	container, err := postgres.Run(ctx, image,
		postgres.WithDatabase("postgres"),
		postgres.WithUsername("postgres"),
		postgres.WithPassword(rand.Text()),
		postgres.BasicWaitStrategies(),
		testcontainers.WithCmd("postgres", "-c", "fsync=off", "-c", "synchronous_commit=off",
			"-c", "full_page_writes=off", "-c", "max_connections=300"),
	)
	if err != nil {
		if container != nil {
			// What is said of the start is worth more.
			_ = container.Terminate(context.WithoutCancel(ctx))
		}
		return "", fmt.Errorf("start a container of %s: %w", image, err)
	}
	url, err := container.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return "", fmt.Errorf("read the container's address: %w", err)
	}
	return url, nil
}
