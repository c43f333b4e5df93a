// Command claimsql writes query/claim.sql, the texts of the claim, from one template. sqlc compiles
// what it writes.
package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"strconv"
	"text/template"
)

//go:embed claim.sql.tmpl
var source string

// target is relative to the package whose go:generate line runs this.
const target = "query/claim.sql"

// variant is one text of the claim.
type variant struct {
	Name    string
	Queues  bool // it claims jobs of queues, too
	Indexed bool // it uses the index on queues
	Deep    bool
	Window  int    // rows at the front of the line that it looks at, at most; 0: none
	Flags   string // the parameter with the forbidden flags; empty in a text without
	Avoid   string // in a text with flags, the parameter with the ids of jobs that are passed over
	Own     int    // how many parameters it has beside those that come last
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "claimsql:", err)
		os.Exit(1)
	}
}

func run() error {
	parsed, err := template.New("file").Parse(source)
	if err != nil {
		return err
	}
	var variants []variant
	for _, v := range []variant{
		{Name: "ClaimFree", Own: 10},
		{Name: "ClaimFront", Queues: true, Indexed: true, Window: 2000, Own: 11},
		{Name: "ClaimDeep", Queues: true, Indexed: true, Deep: true, Own: 13},
		{Name: "ClaimScan", Queues: true, Window: 4000, Own: 10},
	} {
		plain, flags := v, v
		flags.Name += "Flags"
		flags.Flags, flags.Avoid = v.parameter(1), v.parameter(2)
		flags.Own += 2
		variants = append(variants, plain, flags)
	}
	var text bytes.Buffer
	if err := parsed.Execute(&text, variants); err != nil {
		return err
	}
	return os.WriteFile(target, text.Bytes(), 0o644) //nolint:gosec // a source file
}

// parameter is one of those that come behind a text's own.
func (v variant) parameter(n int) string { return "$" + strconv.Itoa(v.Own+n) }

// Transactional is the parameter with the ids of transactional tasks, Room that with how many of
// their jobs there are connections for, and Line that with the ids of all served tasks: their jobs
// keep their place in a queue, also those that may not be claimed now.
func (v variant) Transactional() string { return v.parameter(1) }
func (v variant) Room() string          { return v.parameter(2) }
func (v variant) Line() string          { return v.parameter(3) }

// MaxBatch is the largest batch; internal/worker asks for no more.
func (variant) MaxBatch() int { return 500 }

// Priorities is how many of them a full claim looks at; the next goes on behind them.
func (variant) Priorities() int { return 100 }

// Future is how many jobs of a priority that are not due yet are looked at, for the next one that
// is served.
func (variant) Future() int { return 200 }

// Unpacked is how many times larger than it is stored a payload can be: lz4 writes at best a byte
// for 255, pglz three for 273.
func (variant) Unpacked() int { return 256 }

// HeldBack is how many of the open queues that it has no room for a claim returns, the best first.
// A search by number would find them again only in its next round.
func (v variant) HeldBack() int {
	if v.Deep {
		return 100
	}
	return 1
}

// WindowSize is how many rows a batch's window has.
func (v variant) WindowSize() string {
	if !v.Indexed {
		return strconv.Itoa(v.Window)
	}
	return "greatest(4 * $6::int, 400)"
}

// Served is the condition that a job is for this worker. Jobs without flags have null there, and
// always pass (contract section 5.2).
func (v variant) Served(alias string) string {
	return v.servedAs(alias, "$3")
}

func (v variant) servedAs(alias, tasks string) string {
	return alias + "task_id = any(" + tasks + "::int[])" + v.passes(" and ", alias)
}

// ServedTask is a column task_id which is null for jobs that have a forbidden flag, or are passed
// over.
func (v variant) ServedTask() string {
	if v.Flags == "" {
		return "task_id"
	}
	return "case when" + v.passes(" ", "") + " then task_id end as task_id"
}

func (v variant) passes(before, alias string) string {
	if v.Flags == "" {
		return ""
	}
	return before + "(" + alias + "flags ?| " + v.Flags + "::text[]) is not true and " + alias + "id <> all(" + v.Avoid + "::bigint[])"
}

// Bytes is how large a payload is, or the most that it can be. PostgreSQL packs rows of more than
// 2 kB, so a smaller payload is hardly ever packed, and asking for its size costs a copy.
func (v variant) Bytes(alias string) string {
	return fmt.Sprintf("case when pg_column_size(%[1]spayload) <= 2000 then octet_length(%[1]spayload::text)\n"+
		"                else pg_column_size(%[1]spayload)::bigint * %[2]d end as bytes", alias, v.Unpacked())
}

// Fits is the condition that a job's payload is not too large. To know its size it has to be
// unpacked, if it is packed at all. So a large one passes only if it fits however well it is
// packed.
func (v variant) Fits(alias string) string {
	stored := "pg_column_size(" + alias + "payload)::bigint"
	return fmt.Sprintf(`case when $8::bigint = 0 or %[1]s * %[2]d <= $8::bigint then true
                when %[1]s > 65536 then false
                else octet_length(%[3]spayload::text) <= $8::bigint end`, stored, v.Unpacked(), alias)
}

// Head is the first job of a queue that is due and served.
func (v variant) Head(queue string) string {
	return `    select j.id, j.task_id, j.priority, j.run_at from graphile_worker._private_jobs as j
     where j.job_queue_id = ` + queue + ` and j.is_available and j.run_at <= now() and ` + v.servedAs("j.", v.Line()) + `
     order by j.job_queue_id, j.priority, j.run_at, j.id limit 1`
}
