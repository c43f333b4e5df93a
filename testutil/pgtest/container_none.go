//go:build !testcontainers

package pgtest

import (
	"context"
	"errors"
)

// startContainer is compiled in on request only: testcontainers-go is 150 packages, in every test
// binary that uses pgtest.
func startContainer(context.Context) (string, error) {
	return "", errors.New("BACKFILL_TEST_PG=container needs testcontainers-go: run go test -tags testcontainers")
}
