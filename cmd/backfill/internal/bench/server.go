package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/backfillhq/go/cmd/backfill/internal/scratch"
)

// Server is the server, with what decides how fast it is.
type Server struct {
	Version   string  `json:"version"`
	RoundTrip float64 `json:"round_trip_ms"` // the median of some
	// Settings are fsync, full_page_writes, shared_buffers, synchronous_commit, synchronous_standby_names,
	// wal_sync_method and work_mem, as this session has them.
	Settings map[string]string `json:"settings"`
}

// settings are those that decide how fast commits and claims are.
var settings = []string{
	"fsync", "full_page_writes", "shared_buffers", "synchronous_commit", "synchronous_standby_names", "wal_sync_method", "work_mem",
}

// roundTrips is how many are taken.
const roundTrips = 21

func readServer(ctx context.Context, conn *pgx.Conn) (s Server, err error) {
	const read = "select name, current_setting(name) from pg_catalog.pg_settings where name = any($1)"
	rows, err := conn.Query(ctx, read, settings)
	if err != nil {
		return s, fmt.Errorf("read the server's settings: %w", err)
	}
	s.Settings = map[string]string{}
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error { s.Settings[name] = value; return nil }); err != nil {
		return s, fmt.Errorf("read the server's settings: %w", err)
	}
	s.Version, _, _ = strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
	var took []time.Duration
	for range roundTrips {
		began := time.Now()
		if err := conn.Ping(ctx); err != nil {
			return s, fmt.Errorf("reach the server: %w", err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	s.RoundTrip = float64(took[len(took)/2]) / float64(time.Millisecond)
	return s, nil
}

// Used says who would feel a measurement: what is known of workers of this database, and of others of
// the server; nil: nobody.
func Used(ctx context.Context, conn *pgx.Conn) (here, elsewhere []string, err error) {
	queues, err := scratch.Queues(ctx, conn, command)
	if err != nil {
		return nil, nil, err
	}
	for _, schema := range queues {
		workers, err := scratch.Alive(ctx, conn, schema)
		if err != nil {
			return nil, nil, err
		}
		if workers > 0 {
			here = append(here, fmt.Sprintf("Go workers of the schema %q that are alive: %d", schema, workers))
		}
	}
	sessions, err := scratch.Listeners(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case sessions.Here > 0:
		here = append(here, fmt.Sprintf("sessions that listen as workers do, Go's or Node's: %d", sessions.Here))
	case !sessions.All && len(queues) > 0:
		here = append(here, fmt.Sprintf("the schema %q has a queue, and this role may not see whether workers of it are connected "+
			"(it is no member of pg_read_all_stats)", queues[0]))
	}
	if sessions.Elsewhere > 0 {
		elsewhere = append(elsewhere, fmt.Sprintf("sessions of other databases of this server that listen as workers do: %d", sessions.Elsewhere))
	}
	return here, elsewhere, nil
}
