package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
)

// With -statements the server says what it did in each run, by pg_stat_statements, which costs it a little and comes with
// PostgreSQL's contrib modules.

// preloadStatements needs a restart, as the other settings do.
const preloadStatements = "alter system set shared_preload_libraries = 'pg_stat_statements'"

// mostStatements of a run are shown: those that took longest.
const mostStatements = 8

// Blocks are counted in the cache and outside of it. Work that is counted does not depend on how busy the machine is.
const topStatements = `
select left(regexp_replace(regexp_replace(query, '^--.*?\n', ''), '\s+', ' ', 'g'), 90), calls, rows::bigint,
       total_exec_time / calls as ms, (shared_blks_hit + shared_blks_read)::float8 / calls as blocks, wal_bytes::float8 / calls as wal
  from pg_stat_statements
 where dbid = (select oid from pg_database where datname = current_database())
   and query not ilike '%pg_stat_statements%'
 order by total_exec_time desc limit $1`

// statement is one row of pg_stat_statements.
type statement struct {
	Text        string
	Calls, Rows int64
	MS          float64
	Blocks, WAL float64
}

// forgetStatements begins a run.
func (l *lab) forgetStatements(ctx context.Context) error {
	if !l.opts.statements {
		return nil
	}
	if _, err := l.admin.Exec(ctx, "create extension if not exists pg_stat_statements; select pg_stat_statements_reset()"); err != nil {
		return fmt.Errorf("use pg_stat_statements: %w", err)
	}
	return nil
}

// printStatements ends a run.
func (l *lab) printStatements(ctx context.Context, out io.Writer) error {
	if !l.opts.statements {
		return nil
	}
	rows, err := l.admin.Query(ctx, topStatements, mostStatements)
	if err != nil {
		return fmt.Errorf("read pg_stat_statements: %w", err)
	}
	top, err := pgx.CollectRows(rows, pgx.RowToStructByPos[statement])
	if err != nil {
		return fmt.Errorf("read pg_stat_statements: %w", err)
	}
	fmt.Fprintf(out, "%9s %10s %9s %9s %10s  (ms, blocks and bytes of WAL: for each call)\n", "calls", "rows", "ms", "blocks", "WAL")
	for _, s := range top {
		fmt.Fprintf(out, "%9d %10d %9.3f %9.1f %10.0f  %s\n", s.Calls, s.Rows, s.MS, s.Blocks, s.WAL, strings.TrimSpace(s.Text))
	}
	return nil
}
