package devpg

import (
	"context"
	"errors"
)

var errWindows = errors.New("run a private PostgreSQL: not on Windows; " +
	"use DATABASE_URL=postgres://user:password@host:5432/database")

func startPrivate(context.Context, Config) (string, func() error, error) {
	return "", nil, errWindows
}

// CacheDir is for private servers, which Windows does not have.
func CacheDir(string) (string, error) { return "", errWindows }
