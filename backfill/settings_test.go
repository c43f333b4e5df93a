package backfill_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

// A client installs its schema, enqueues and works whatever the settings of its database are.
func TestClientUnderSettings(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]string{
		"empty path": "search_path = ''", "DateStyle": "datestyle = 'German'",
		"array_nulls": "array_nulls = off",
	} {
		for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				t.Parallel()
				db := pgtest.Empty(t)
				conn := dbtest.Connect(t, db.URL)
				dbtest.NeedSuperuser(t, conn)
				dbtest.Run(t, conn, "alter database "+dbtest.Get[string](t, conn, "select quote_ident(current_database())")+" set "+setting)
				pool := poolOf(t, db.URL+"&default_query_exec_mode="+mode, func(*pgxpool.Config) {})
				client, err := backfill.NewClient(t.Context(), pool, backfill.WithLogger(quiet))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(client.Close)
				task, registry := taskOf("send_email", ignore)
				w := start(t, client, registry)
				job := enqueue(t, client, task, mailArgs{UserID: 1})
				w.await("the job", 1, of(backfill.EventFinished, job.ID))
			})
		}
	}
}
