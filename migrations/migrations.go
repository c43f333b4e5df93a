// Package migrations holds the SQL that makes the schema: the tables that Graphile Worker's
// processes share with us (wire), and our own beside them (own).
//
// The files can be read and run by hand with psql, in the order of [All]; wire/0000.sql says how.
// They record themselves: wire files in the table migrations, which Graphile Worker reads too, own
// files in backfill_migrations. The statements of a released file are never edited.
package migrations

import (
	"crypto/sha256"
	_ "embed" // The files below.
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Revisions of Graphile Worker's schema that we can make or use.
const (
	// Newest is the revision that the wire files lead to.
	Newest = 20
	// Squashed is the revision that a new schema starts with: one file for all up to it. An
	// existing schema below it is brought forward by Graphile Worker only.
	Squashed = 18
)

// QueueIndex is the index that own/0002_queue_index.sql builds. It is built concurrently, so it can
// be missing or invalid whatever the ledger says. Workers run without it, but more slowly.
const QueueIndex = "backfill_jobs_queue_idx"

// Migration is one file.
type Migration struct {
	// ID is the revision that the file leads to. Wire IDs are Graphile Worker's own numbers; wire
	// file 0 makes the schema and records nothing.
	ID int
	// Path is the file's path in this package, as in "wire/0018.sql".
	Path string
	// SQL is the file's text; it names the schema graphile_worker, see [Render].
	SQL string
}

var (
	//go:embed wire/0000.sql
	wire0000 string
	//go:embed wire/0018.sql
	wire0018 string
	//go:embed wire/0019.sql
	wire0019 string
	//go:embed wire/0020.sql
	wire0020 string
	//go:embed own/0001_workers.sql
	own0001 string
	//go:embed own/0002_queue_index.sql
	own0002 string
	//go:embed own/0003_enqueue.sql
	own0003 string
	//go:embed own/0004_comments.sql
	own0004 string
	//go:embed own/0005_enqueue.sql
	own0005 string
	//go:embed own/0006_sweeps.sql
	own0006 string
)

// Wire returns the files for Graphile Worker's tables and functions, in order.
func Wire() []Migration {
	return []Migration{
		{ID: 0, Path: "wire/0000.sql", SQL: wire0000},
		{ID: 18, Path: "wire/0018.sql", SQL: wire0018},
		{ID: 19, Path: "wire/0019.sql", SQL: wire0019},
		{ID: 20, Path: "wire/0020.sql", SQL: wire0020},
	}
}

// Own returns the files for our own tables, indexes and functions, in order. They come after [Wire].
func Own() []Migration {
	return []Migration{
		{ID: 1, Path: "own/0001_workers.sql", SQL: own0001},
		{ID: 2, Path: "own/0002_queue_index.sql", SQL: own0002},
		{ID: 3, Path: "own/0003_enqueue.sql", SQL: own0003},
		{ID: 4, Path: "own/0004_comments.sql", SQL: own0004},
		{ID: 5, Path: "own/0005_enqueue.sql", SQL: own0005},
		{ID: 6, Path: "own/0006_sweeps.sql", SQL: own0006},
	}
}

// All returns every file in the order in which they run.
func All() []Migration {
	return slices.Concat(Wire(), Own())
}

// Breaking reports whether Graphile Worker marks this revision as breaking: a worker that does not
// know it must not run on a schema that has it.
func Breaking(id int) bool {
	switch id {
	case 1, 3, 11, 13, 14, 16, 19:
		return true
	default:
		return false
	}
}

// Hash identifies the contents of all files: two builds with the same hash make the same schema.
func Hash() string {
	h := sha256.New()
	for _, m := range All() {
		// The length keeps text from moving unnoticed from one file to the next.
		fmt.Fprintf(h, "%s %d\n%s", m.Path, len(m.SQL), m.SQL)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Wire reports whether the file is one of [Wire], which are announced to all workers.
func (m Migration) Wire() bool {
	return strings.HasPrefix(m.Path, "wire/")
}

// Transactional reports whether the file must run in one transaction. The others, marked by
// "-- no-transaction" in their first line, must run outside any, statement by statement.
func (m Migration) Transactional() bool {
	return !strings.HasPrefix(m.SQL, "-- no-transaction\n")
}

// Statements returns the statements of a file that is not [Migration.Transactional]. Those files
// end each statement with a semicolon at the end of a line, and have none anywhere else.
func (m Migration) Statements() []string {
	var statements []string
	for part := range strings.SplitSeq(m.SQL, ";\n") {
		if strings.TrimSpace(part) != "" {
			statements = append(statements, part)
		}
	}
	return statements
}
