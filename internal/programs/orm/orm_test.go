// Package orm_test tests that jobs are enqueued in the transactions of ORMs, as docs/enqueuing.md
// says, and that ORMs work in transactions that they are given, also those of transactional tasks, as
// docs/directives.md says.
package orm_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/sqlgraph"
	"entgo.io/ent/schema/field"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/testutil/pgtest"
)

// User is a row of the application's.
type User struct {
	bun.BaseModel `bun:"table:users" gorm:"-"`

	ID int64 `bun:",pk"`
}

// story inserts a user and a job in one transaction, which it rolls back if end is an error.
type story func(ctx context.Context, db *sql.DB, client *backfill.Client, end error) error

var errRollback = errors.New("roll back")

// stories are by the names that docs/enqueuing.md gives them.
var stories = map[string]story{
	"GORM":                      gormStory(&gorm.Config{}, enqueueInGORM),
	"GORM with `PrepareStmt`":   gormStory(&gorm.Config{PrepareStmt: true}, enqueueInPreparedGORM),
	"bun":                       bunStory,
	"sqlx":                      sqlxStory,
	"ent":                       entStory,
	"GORM, savepoint inside it": gormStory(&gorm.Config{}, enqueueInGORMSavepoint),
	"GORM, in a hook":           gormHookStory,
	"bun, savepoint inside it":  bunSavepointStory,
}

func gormStory(config *gorm.Config, enqueue func(context.Context, *gorm.DB, *backfill.Client) error) story {
	return func(ctx context.Context, db *sql.DB, client *backfill.Client, end error) error {
		conns, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), config)
		if err != nil {
			return err
		}
		return conns.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
			if err := tx.Create(&User{ID: 1}).Error; err != nil {
				return err
			}
			return errors.Join(enqueue(ctx, tx, client), end)
		})
	}
}

func enqueueInGORM(ctx context.Context, tx *gorm.DB, client *backfill.Client) error {
	_, err := client.WithSQLTx(tx.Statement.ConnPool.(*sql.Tx)).Enqueue(ctx, backfill.Request{Task: "welcome"})
	return err
}

func enqueueInGORMSavepoint(ctx context.Context, tx *gorm.DB, client *backfill.Client) error {
	return tx.Transaction(func(tx *gorm.DB) error { return enqueueInGORM(ctx, tx, client) })
}

// Member is a User that is welcomed wherever one is created.
type Member struct{ ID int64 }

func (*Member) TableName() string { return "users" }

// AfterCreate is called by GORM, in the transaction of the insert.
func (*Member) AfterCreate(tx *gorm.DB) error {
	ctx := tx.Statement.Context
	_, err := backfill.FromContext(ctx).WithSQLTx(tx.Statement.ConnPool.(*sql.Tx)).Enqueue(ctx, backfill.Request{Task: "welcome"})
	return err
}

// gormHookStory begins no transaction, and has the hook enqueue through the client of the context.
func gormHookStory(ctx context.Context, db *sql.DB, client *backfill.Client, end error) error {
	conns, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{})
	if err != nil {
		return err
	}
	conns = conns.WithContext(backfill.NewContext(ctx, client))
	if end == nil {
		return conns.Create(&Member{ID: 1}).Error
	}
	return conns.Transaction(func(tx *gorm.DB) error { return errors.Join(tx.Create(&Member{ID: 1}).Error, end) })
}

func enqueueInPreparedGORM(ctx context.Context, tx *gorm.DB, client *backfill.Client) error {
	_, err := client.WithSQLTx(tx.Statement.ConnPool.(*gorm.PreparedStmtTX).Tx.(*sql.Tx)).Enqueue(ctx, backfill.Request{Task: "welcome"})
	return err
}

func bunStory(ctx context.Context, db *sql.DB, client *backfill.Client, end error) error {
	return bun.NewDB(db, pgdialect.New()).RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&User{ID: 1}).Exec(ctx); err != nil {
			return err
		}
		_, err := client.WithSQLTx(tx.Tx).Enqueue(ctx, backfill.Request{Task: "welcome"})
		return errors.Join(err, end)
	})
}

func bunSavepointStory(ctx context.Context, db *sql.DB, client *backfill.Client, end error) error {
	return bun.NewDB(db, pgdialect.New()).RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&User{ID: 1}).Exec(ctx); err != nil {
			return err
		}
		err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := client.WithSQLTx(tx.Tx).Enqueue(ctx, backfill.Request{Task: "welcome"})
			return err
		})
		return errors.Join(err, end)
	})
}

func sqlxStory(ctx context.Context, db *sql.DB, client *backfill.Client, end error) error {
	tx, err := sqlx.NewDb(db, "pgx").BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.NamedExecContext(ctx, "insert into users (id) values (:id)", User{ID: 1}); err != nil {
		return err
	}
	if _, err = client.WithSQLTx(tx.Tx).Enqueue(ctx, backfill.Request{Task: "welcome"}); err != nil {
		return err
	}
	return cmpOr(end, tx.Commit)
}

// inTx is a driver of ent that is in a transaction already.
type inTx struct{ *entsql.Driver }

func (d inTx) Tx(context.Context) (dialect.Tx, error) { return dialect.NopTx(d), nil }

// entStory does what ent's generated code does, with the driver that ent.Driver would be given.
func entStory(ctx context.Context, db *sql.DB, client *backfill.Client, end error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	driver := inTx{entsql.NewDriver(dialect.Postgres, entsql.Conn{ExecQuerier: tx})}
	id := &sqlgraph.FieldSpec{Column: "id", Type: field.TypeInt64, Value: int64(1)}
	if err := sqlgraph.CreateNode(ctx, driver, &sqlgraph.CreateSpec{Table: "users", ID: id}); err != nil {
		return err
	}
	change := sqlgraph.NewUpdateSpec("users", []string{"id"}, id)
	change.SetField("id", field.TypeInt64, int64(1))
	change.ScanValues = func([]string) ([]any, error) { return []any{new(int64)}, nil }
	change.Assign = func([]string, []any) error { return nil }
	if err := sqlgraph.UpdateNode(ctx, driver, change); err != nil { // begins a transaction of its own
		return err
	}
	if _, err := client.WithSQLTx(tx).Enqueue(ctx, backfill.Request{Task: "welcome"}); err != nil {
		return err
	}
	return cmpOr(end, tx.Commit)
}

func cmpOr(end error, commit func() error) error {
	if end != nil {
		return end
	}
	return commit()
}

// The row is there and the job runs after a commit, and neither is there after a rollback.
func TestJobsInTransactionsOfORMs(t *testing.T) {
	t.Parallel()
	for name, story := range stories {
		for _, end := range []error{nil, errRollback} {
			t.Run(fmt.Sprint(name, ", ", end), func(t *testing.T) {
				t.Parallel()
				want := 1
				if end != nil {
					want = 0
				}
				wantAfter(t, func(ctx context.Context, db *sql.DB, client *backfill.Client) {
					if err := story(ctx, db, client, end); !errors.Is(err, end) {
						t.Fatalf("got %v, want %v", err, end)
					}
				}, want, want)
			})
		}
	}
}

// A job belongs to the savepoint that it was enqueued in: it is not there if that was rolled back,
// and what is around it was committed.
func TestJobsInSavepointsOfORMs(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]func(context.Context, *sql.DB, *backfill.Client) error{
		"GORM": func(ctx context.Context, db *sql.DB, client *backfill.Client) error {
			enqueue := func(ctx context.Context, tx *gorm.DB, client *backfill.Client) error {
				return only(errRollback, tx.Transaction(func(tx *gorm.DB) error {
					return errors.Join(enqueueInGORM(ctx, tx, client), errRollback)
				}))
			}
			return gormStory(&gorm.Config{}, enqueue)(ctx, db, client, nil)
		},
		"bun": func(ctx context.Context, db *sql.DB, client *backfill.Client) error {
			return bun.NewDB(db, pgdialect.New()).RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.NewInsert().Model(&User{ID: 1}).Exec(ctx)
				return errors.Join(err, only(errRollback, tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
					_, err := client.WithSQLTx(tx.Tx).Enqueue(ctx, backfill.Request{Task: "welcome"})
					return errors.Join(err, errRollback)
				})))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantAfter(t, func(ctx context.Context, db *sql.DB, client *backfill.Client) {
				if err := story(ctx, db, client); err != nil {
					t.Fatal(err)
				}
			}, 1, 0)
		})
	}
}

// only returns nil if err is want, alone or joined to nothing else.
func only(want, err error) error {
	if err != nil && err.Error() == want.Error() {
		return nil
	}
	return fmt.Errorf("got %w, want %w", err, want)
}

// wantAfter does something with a new database, and compares the rows of users, and the jobs that
// a worker runs then.
func wantAfter(t *testing.T, do func(context.Context, *sql.DB, *backfill.Client), users, jobs int) {
	t.Helper()
	pool := pgtest.New(t).Pool()
	if _, err := pool.Exec(t.Context(), "create table users (id bigint primary key)"); err != nil {
		t.Fatal(err)
	}
	client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	do(t.Context(), db, client)
	var got int
	if err := pool.QueryRow(t.Context(), "select count(*) from users").Scan(&got); err != nil {
		t.Fatal(err)
	}
	welcome := backfill.Handle(&backfill.Task[backfill.NoArgs]{Name: "welcome"}, func(context.Context, backfill.NoArgs) error { return nil })
	report, err := backfill.RunOnce(t.Context(), backfill.NewRegistry(welcome), backfill.WithClient(client))
	if err != nil {
		t.Fatal(err)
	}
	if got != users || report.Completed != int64(jobs) {
		t.Errorf("there are %d users, and %d jobs ran; want %d and %d", got, report.Completed, users, jobs)
	}
}

// Each line of the table in docs/enqueuing.md is an expression of this file, and each ORM of this
// file has a line.
func TestTableOfORMs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/enqueuing.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("orm_test.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile("(?m)^\\| ([^|]+?) +\\| `(client\\.WithSQLTx[^`]+)`").FindAllStringSubmatch(string(page), -1)
	found := map[string]bool{}
	for _, line := range lines {
		found[line[1]] = true
		if stories[line[1]] == nil {
			t.Errorf("%s has no test", line[1])
		}
		if !strings.Contains(string(source), line[2]) {
			t.Errorf("%s: %s is not what is tested", line[1], line[2])
		}
	}
	_, driver, _ := strings.Cut(string(page), "```go\n// inTx is")
	if driver, _, _ = strings.Cut(driver, "```"); driver == "" || !strings.Contains(string(source), driver) {
		t.Error("the driver for ent is not the one that is tested")
	}
	for name := range stories {
		if !found[name] && !strings.Contains(name, ",") {
			t.Errorf("%s is not in the table", name)
		}
	}
}
