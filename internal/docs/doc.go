// Package docs tests that what the documentation tells users to write and to run works. It has nothing but tests, and the line that
// writes the schema of the sample in docs/sqlc.
package docs

//go:generate sh -c "go run ../../cmd/backfill migrate --print >../../docs/sqlc/backfill.sql"
