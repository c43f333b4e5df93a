package orm_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/backfillhq/go/backfill"
)

// given inserts a user, and counts the users, in a transaction that others begin and end, as a
// transactional task does.
type given func(ctx context.Context, pool *sql.DB, tx *sql.Tx) (int, error)

// givens are by the names that docs/directives.md gives them.
var givens = map[string]given{
	"GORM":                     gormGiven(&gorm.Config{}),
	"GORM, with `PrepareStmt`": gormGiven(&gorm.Config{PrepareStmt: true}),
	"bun":                      bunGiven,
	"sqlx":                     sqlxGiven,
}

func gormGiven(config *gorm.Config) given {
	return func(ctx context.Context, pool *sql.DB, tx *sql.Tx) (int, error) {
		db, err := gorm.Open(postgres.New(postgres.Config{Conn: pool}), config)
		if err != nil {
			return 0, err
		}
		s := db.WithContext(ctx)
		s.Statement.ConnPool = tx
		if err := s.Create(&User{ID: 1}).Error; err != nil {
			return 0, err
		}
		err = s.Transaction(func(tx *gorm.DB) error { return errors.Join(tx.Create(&User{ID: 2}).Error, errRollback) }) // a savepoint
		if err := only(errRollback, err); err != nil {
			return 0, err
		}
		var outside, inside int64
		if err := db.Model(&User{}).Count(&outside).Error; err != nil || outside != 0 {
			return 0, fmt.Errorf("the pool's sessions see %d users, %w", outside, err)
		}
		err = s.Model(&User{}).Count(&inside).Error
		return int(inside), err
	}
}

func bunGiven(ctx context.Context, pool *sql.DB, tx *sql.Tx) (int, error) {
	db := bun.NewDB(pool, pgdialect.New())
	if _, err := db.NewInsert().Model(&User{ID: 1}).Conn(tx).Exec(ctx); err != nil {
		return 0, err
	}
	users, err := db.NewSelect().Model((*User)(nil)).Conn(tx).Count(ctx)
	return int(users), err
}

func sqlxGiven(ctx context.Context, pool *sql.DB, tx *sql.Tx) (users int, err error) {
	db := sqlx.NewDb(pool, "pgx")
	x := &sqlx.Tx{Tx: tx, Mapper: db.Mapper}
	query, args, err := db.BindNamed("insert into users (id) values (:id)", User{ID: 1})
	if err != nil {
		return 0, err
	}
	if _, err := x.ExecContext(ctx, query, args...); err != nil {
		return 0, err
	}
	return users, x.GetContext(ctx, &users, "select count(*) from users")
}

// What libraries do in a transaction that they are given is in it, and nowhere else.
func TestORMsInGivenTransactions(t *testing.T) {
	t.Parallel()
	for name, do := range givens {
		for _, commit := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", commit ", commit), func(t *testing.T) {
				t.Parallel()
				want := 0
				if commit {
					want = 1
				}
				wantAfter(t, func(ctx context.Context, db *sql.DB, _ *backfill.Client) {
					tx, err := db.BeginTx(ctx, nil)
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = tx.Rollback() }()
					if users, err := do(ctx, db, tx); err != nil || users != 1 {
						t.Fatalf("in the transaction there are %d users, %v", users, err)
					}
					if commit {
						err = tx.Commit()
					}
					if err != nil {
						t.Fatal(err)
					}
				}, want, 0)
			})
		}
	}
}

// Each line of the table in docs/directives.md is code of this file.
func TestTableOfGivenTransactions(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/directives.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("given_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Transactional tasks\n")
	section, _, _ = strings.Cut(section, "\n## ")
	lines := regexp.MustCompile(`(?m)^\| (GORM|bun|sqlx) +\| ([^|]+)`).FindAllStringSubmatch(section, -1)
	if len(lines) != 3 {
		t.Fatalf("the table has the lines %q", lines)
	}
	for _, line := range lines {
		for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line[2], -1) {
			for statement := range strings.SplitSeq(code[1], "; ") {
				if !strings.Contains(string(source), statement) {
					t.Errorf("%s: %s is not what is tested", line[1], statement)
				}
			}
		}
	}
}
