package generate

import "testing"

// A transaction is known although its package is not there, nor anything else that the file needs.
func TestTransactionWithoutPackages(t *testing.T) {
	t.Parallel()
	p, problems := source(t, `package tasks

import (
	"context"
	"database/sql"
	"example.com/missing"

	"github.com/jackc/pgx/v5"
)

type Args struct{ ID int }

type Tx = pgx.Tx

//backfill:task timeout=1m
func A(ctx context.Context, tx pgx.Tx, args Args) error { return missing.Call(undefined) }

//backfill:task timeout=1m
func B(ctx context.Context, tx *sql.Tx) error { return nil }

//backfill:task timeout=1m
func C(ctx context.Context, tx Tx) error { return nil }

//backfill:task
func D(ctx context.Context, args Args) error { return nil }
`)
	p.collect(problems)
	tasks := p.tasks(problems)
	for _, problem := range problems.Sorted() {
		t.Errorf("problem: %s", problem.Message)
	}
	want := []string{pgxTx, sqlTx, pgxTx, ""}
	if len(tasks) != len(want) {
		t.Fatalf("%d tasks, want %d", len(tasks), len(want))
	}
	for i, task := range tasks {
		if task.line.transaction != want[i] {
			t.Errorf("task %s takes the transaction %q, want %q", task.name, task.line.transaction, want[i])
		}
	}
}
