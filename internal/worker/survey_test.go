package worker

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backfillhq/go/internal/wire"
)

// surveyedStore is a Store for surveys alone.
type surveyedStore struct {
	Store

	surveyed Surveyed
}

func (s *surveyedStore) Survey(context.Context) (Surveyed, error) { return s.surveyed, nil }

func (s *surveyedStore) Sessions() Sessions {
	return Sessions{Server: "db.internal:5432", Database: "app", Schema: "graphile_worker"}
}

// A worker that has just claimed jobs does not say that nobody has for a day, though the next survey
// is to come, or has failed.
func TestClaimEndsTheQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, said := New(&surveyedStore{}, Config{Logger: slog.New(slog.DiscardHandler)}), surveyor{}
		claim := func(jobs ...*wire.Job) {
			w.on(func(c *core, now time.Time) actions {
				c.claimed(step{request: ClaimRequest{WorkerID: c.id}}, Claimed{Alive: true, Jobs: jobs}, true, now)
				return actions{}
			})
		}
		claim(&wire.Job{})
		said.survey(t.Context(), w)
		<-time.After(25 * time.Hour)
		said.survey(t.Context(), w)
		claim()
		if w.Health().QuietSince.IsZero() {
			t.Error("it does not say that nobody has enqueued or claimed for a day")
		}
		claim(&wire.Job{})
		if since := w.Health().QuietSince; !since.IsZero() {
			t.Errorf("it has claimed a job, and says that nobody has since %v", since)
		}
	})
}

// A worker says once, after a day, that nobody uses these tables: they may have been left for those
// of another database.
func TestDatabaseThatNobodyUses(t *testing.T) {
	t.Parallel()
	for _, counted := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			store := &surveyedStore{}
			if !counted {
				store.surveyed.Changes = -1
			}
			w, said := New(store, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}), surveyor{}
			surveys := func(d time.Duration) {
				for end := time.Now().Add(d); !time.Now().After(end); {
					said.survey(t.Context(), w)
					<-time.After(10 * time.Minute)
				}
			}
			says := func(lines int, quiet bool) {
				t.Helper()
				if !counted {
					lines, quiet = 0, false
				}
				if got := strings.Count(log.String(), "nobody has enqueued or claimed a job here for a day"); got != lines {
					t.Errorf("%d lines, want %d: %s", got, lines, log.String())
				}
				since := w.Health().QuietSince
				if since.IsZero() == quiet || quiet && time.Since(since) < 24*time.Hour {
					t.Errorf("health says that nothing goes on since %v", since)
				}
			}
			surveys(12 * time.Hour)
			if counted {
				store.surveyed.Changes++
			}
			surveys(23*time.Hour + 50*time.Minute)
			says(0, false)
			surveys(0)
			says(1, true)
			surveys(100 * time.Hour)
			says(1, true)
			if counted {
				store.surveyed.Changes++
			}
			surveys(0)
			says(1, false)
			surveys(24 * time.Hour)
			says(2, true)
			const place = "server=db.internal:5432 database=app schema=graphile_worker"
			if counted && strings.Count(log.String(), place) != 2 {
				t.Errorf("it does not say where: %s", log.String())
			}
		})
	}
}
