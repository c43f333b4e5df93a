// Package migrations holds the SQL that makes the schema: the tables that Graphile Worker's
// processes share with us (wire), and our own beside them (own).
//
// The files can be read and run by hand with psql, in the order of [All]; wire/0000.sql says how.
// They record themselves: wire files in the table migrations, which Graphile Worker reads too, own
// files in backfill_migrations. The statements of a released file are never edited.
package migrations

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
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

//go:embed wire/*.sql own/*.sql
var files embed.FS

// Wire returns the files for Graphile Worker's tables and functions, in order.
func Wire() []Migration { return read("wire") }

// Own returns the files for our own tables, indexes and functions, in order. They come after [Wire].
func Own() []Migration { return read("own") }

// read returns the files of a folder. The first four digits of a name are the ID.
func read(folder string) []Migration {
	entries, _ := files.ReadDir(folder) // what is embedded is there
	list := make([]Migration, len(entries))
	for i, entry := range entries {
		m := &list[i]
		m.Path = folder + "/" + entry.Name()
		m.ID, _ = strconv.Atoi(entry.Name()[:4])
		text, _ := files.ReadFile(m.Path)
		m.SQL = string(text)
	}
	return list
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
