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
	"sync/atomic"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/sqlgraph"
	"entgo.io/ent/schema/field"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/devpg"
)

// url is that of a server of our own.
var url string

func TestMain(m *testing.M) {
	server, err := devpg.Start(context.Background(), devpg.Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	url = server.URL
	code := m.Run()
	_ = server.Stop()
	os.Exit(code)
}

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
	id := &sqlgraph.FieldSpec{Column: "id", Type: field.TypeInt64, Value: int64(7)}
	if err := sqlgraph.CreateNode(ctx, driver, &sqlgraph.CreateSpec{Table: "users", ID: id}); err != nil {
		return err
	}
	change := sqlgraph.NewUpdateSpec("users", []string{"id"}, &sqlgraph.FieldSpec{Column: "id", Type: field.TypeInt64, Value: int64(7)})
	change.SetField("id", field.TypeInt64, int64(1))
	if _, err := sqlgraph.UpdateNodes(ctx, driver, change); err != nil { // begins a transaction of its own
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

// The row and the job are both there after a commit, and neither is after a rollback.
func TestJobsInTransactionsOfORMs(t *testing.T) {
	t.Parallel()
	for name, story := range stories {
		for _, end := range []error{nil, errRollback} {
			t.Run(fmt.Sprint(name, ", ", end), func(t *testing.T) {
				t.Parallel()
				pool := newDatabase(t)
				client := newClient(t, pool)
				db := stdlib.OpenDBFromPool(pool)
				defer db.Close()
				if err := story(t.Context(), db, client, end); !errors.Is(err, end) {
					t.Fatalf("got %v, want %v", err, end)
				}
				var users, jobs int
				if err := pool.QueryRow(t.Context(), "select (select count(*) from users), (select count(*) from graphile_worker.jobs)").
					Scan(&users, &jobs); err != nil {
					t.Fatal(err)
				}
				want := 1
				if end != nil {
					want = 0
				}
				if users != want || jobs != want {
					t.Errorf("%d users and %d jobs, want %d", users, jobs, want)
				}
			})
		}
	}
}

// Each line of the table in docs/enqueuing.md is an expression of this file, and each ORM of this
// file has a line.
func TestTableOfORMs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/enqueuing.md")
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

var databases atomic.Int32

func newDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	admin, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	name := fmt.Sprint("orm_", databases.Add(1))
	if _, err := admin.Exec(t.Context(), "create database "+name); err != nil {
		t.Fatal(err)
	}
	config := admin.Config()
	config.ConnConfig.Database = name
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(t.Context(), "create table users (id bigint primary key)"); err != nil {
		t.Fatal(err)
	}
	return pool
}

func newClient(t *testing.T, pool *pgxpool.Pool, opts ...backfill.ClientOption) *backfill.Client {
	t.Helper()
	opts = append(opts, backfill.WithLogger(slog.New(slog.DiscardHandler)))
	client, err := backfill.NewClient(t.Context(), pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
