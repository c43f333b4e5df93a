package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/migrations"
)

// templateAge is how long the templates of other versions of the schema are
// kept on a server that is not ours.
const templateAge = 7 * 24 * time.Hour

// A template is a database with our schema, to be copied.
type template struct {
	once sync.Once
	name string
	err  error
}

// migratedTemplate returns the name of the template for a schema, and makes it
// on the first call.
func (s *server) migratedTemplate(ctx context.Context, schema string) (string, error) {
	s.mu.Lock()
	t := s.templates[schema]
	if t == nil {
		t = &template{}
		s.templates[schema] = t
	}
	s.mu.Unlock()
	t.once.Do(func() {
		// A test that is cancelled must not spoil it for the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
		defer cancel()
		t.name = templateName(s.role, schema)
		if t.err = s.makeTemplate(ctx, t.name, schema); t.err != nil {
			t.err = fmt.Errorf("make the template database: %w", t.err)
		}
	})
	return t.name, t.err
}

// templateName names the template of this schema and these migrations. Only the
// role that owns it can copy it, so each role has its own.
func templateName(role, schema string) string {
	sum := sha256.Sum256([]byte(migrations.Hash() + "\x00" + schema + "\x00" + role))
	return templatePrefix + hex.EncodeToString(sum[:10])
}

// makeTemplate makes a template that is not there. Test binaries that share a
// server agree through a lock. It gets its name when it is complete.
func (s *server) makeTemplate(ctx context.Context, name, schema string) error {
	return s.do(ctx, func(conn *pgx.Conn) (err error) {
		key := lockKey(name)
		if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", key); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		defer func() {
			_, unlockErr := conn.Exec(context.WithoutCancel(ctx), "select pg_advisory_unlock($1)", key)
			err = errors.Join(err, unlockErr)
		}()
		var there bool
		if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", name).Scan(&there); err != nil {
			return fmt.Errorf("look for it: %w", err)
		}
		if there {
			return markUsed(ctx, conn, name)
		}
		half := newName()
		if _, err := conn.Exec(ctx, "create database "+quoted(half)+" template template0"); err != nil {
			return fmt.Errorf("create database: %w", err)
		}
		if err := migrate(ctx, withDatabase(s.url, half), schema); err != nil {
			return errors.Join(err, dropDatabase(ctx, conn, half))
		}
		if err := markUsed(ctx, conn, half); err != nil {
			return errors.Join(err, dropDatabase(ctx, conn, half))
		}
		if _, err := conn.Exec(ctx, "alter database "+quoted(half)+" rename to "+quoted(name)); err != nil {
			return errors.Join(fmt.Errorf("name it: %w", err), dropDatabase(ctx, conn, half))
		}
		return nil
	})
}

const usedComment = "backfill test template, used "

// markUsed notes that a template is in use, for reapTemplates.
func markUsed(ctx context.Context, conn *pgx.Conn, name string) error {
	now := time.Now().UTC().Format(time.RFC3339)
	if _, err := conn.Exec(ctx, "comment on database "+quoted(name)+" is '"+usedComment+now+"'"); err != nil {
		return fmt.Errorf("mark it as used: %w", err)
	}
	return nil
}

// migrate installs our schema.
func migrate(ctx context.Context, url, name string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to it: %w", err)
	}
	err = schema.Migrate(ctx, conn, schema.Options{Schema: name, Logger: slog.New(slog.DiscardHandler)})
	return errors.Join(err, conn.Close(ctx))
}

// lockKey is a lock's number, which all versions of this package agree on.
func lockKey(name string) int64 {
	sum := fnv.New64a()
	sum.Write([]byte("backfill pgtest " + name))
	return int64(sum.Sum64())
}

// reapTemplates drops templates that were not used for long: those of other
// versions of the schema.
func reapTemplates(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		select datname, coalesce(shobj_description(oid, 'pg_database'), '')
		from pg_database
		where starts_with(datname, $1) and pg_has_role(datdba, 'usage')`, templatePrefix)
	if err != nil {
		return fmt.Errorf("list templates: %w", err)
	}
	var name, comment string
	var old []string
	_, err = pgx.ForEachRow(rows, []any{&name, &comment}, func() error {
		used, err := time.Parse(time.RFC3339, strings.TrimPrefix(comment, usedComment))
		if err == nil && time.Since(used) > templateAge {
			old = append(old, name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list templates: %w", err)
	}
	for _, name := range old {
		if err := dropDatabase(ctx, conn, name); err != nil {
			return err
		}
	}
	return nil
}
