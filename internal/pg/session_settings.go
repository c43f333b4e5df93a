package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// engineSettings states what every statement of a worker runs with (R26), whatever the role, the
// database or the server says: for the session, or for the rest of a transaction in a session of
// somebody else. What a server of an older major does not know is left out. Names are qualified,
// because the search_path that it replaces may have others in front.
//
// search_path: a function in the path of the role could stand in for one that our statements call.
// Plans: a generic plan, made while the table was empty or never analysed, must be the right one
// for a million rows, so only index scans and nested loops are left to choose from.
// READ COMMITTED: claims fail under contention at any other level.
// Read-only is not stated: whoever fences a database against writes must be obeyed.
const engineSettings = `select pg_catalog.set_config(name, value, %t) from (values
  ('search_path', 'pg_catalog, pg_temp'),
  ('client_encoding', 'UTF8'),
  ('datestyle', 'ISO'),
  ('bytea_output', 'hex'),
  ('standard_conforming_strings', 'on'),
  ('array_nulls', 'on'),
  ('transform_null_equals', 'off'),
  ('row_security', 'on'),
  ('default_transaction_isolation', 'read committed'),
  ('default_transaction_deferrable', 'off'),
  ('statement_timeout', '10s'),
  ('lock_timeout', '0'),
  ('idle_in_transaction_session_timeout', '10s'),
  ('idle_session_timeout', '0'),
  ('transaction_timeout', '0'),
  ('jit', 'off'),
  ('plan_cache_mode', 'force_generic_plan'),
  ('enable_seqscan', 'off'),
  ('enable_bitmapscan', 'off'),
  ('enable_indexscan', 'on'),
  ('enable_indexonlyscan', 'on'),
  ('enable_nestloop', 'on'),
  ('from_collapse_limit', '8'),
  ('join_collapse_limit', '8')
) as wanted (name, value) where pg_catalog.current_setting(name, true) is not null`

// A statement_timeout of milliseconds would end the statement that replaces it, so that one is
// replaced by a statement that takes none.
const ownTimeout, ownTimeoutLocal = "set statement_timeout = '10s'", "set local statement_timeout = '10s'"

var (
	engineLocal       = fmt.Sprintf(engineSettings, true)
	engineSession     = ownTimeout + "; " + fmt.Sprintf(engineSettings, false)
	engineTransaction = ownTimeoutLocal + "; " + engineLocal
)

// observeSession tells what a new session is good for, and the server's time in microseconds.
const observeSession = `;
select current_setting('transaction_read_only'), (extract(epoch from clock_timestamp()) * 1000000)::bigint`

// state states settings, and checks what cannot be stated. In a session of somebody else they end
// with what is sent here, which is one transaction.
func (s *sessions) state(ctx context.Context, conn *pgx.Conn, settings string) error {
	sent := time.Now()
	row, err := lastRow(ctx, conn, settings+readTime(observeSession, s.settings.Clock), 2)
	if err != nil {
		return fmt.Errorf("set session parameters: %w", err)
	}
	received := time.Now()
	if row[0] == "on" {
		return errReadOnly
	}
	microseconds, err := strconv.ParseInt(row[1], 10, 64)
	if err != nil {
		return fmt.Errorf("read the server's clock: %w", err)
	}
	s.clock.measure(sent, received, time.UnixMicro(microseconds))
	return nil
}

// errOutOfStep is for a connection whose answers are not those to what was asked. A pooler that gives
// on a session with an answer under way does that.
var errOutOfStep = errors.New("the server has sent an answer to something else: the connection is closed")

// lastRow sends statements in one round trip, by the simple protocol, and returns the last row of
// the last one, which has so many columns.
func lastRow(ctx context.Context, conn *pgx.Conn, statements string, columns int) ([]string, error) {
	rows, err := lastRows(ctx, conn, statements, columns)
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// lastRows is lastRow for each of the last statements. Where the answers have another shape, the
// connection is of no use any more, and closed: more than this one may be wrong.
func lastRows(ctx context.Context, conn *pgx.Conn, statements string, columns ...int) (last [][]string, err error) {
	results, err := conn.PgConn().Exec(ctx, statements).ReadAll()
	if err != nil {
		return nil, err
	}
	skip := len(results) - len(columns)
	for i, want := range columns {
		if skip < 0 || len(results[skip+i].Rows) == 0 || len(results[skip+i].FieldDescriptions) != want {
			closeConn(ctx, conn)
			return nil, fmt.Errorf("%w; asked was %q", errOutOfStep, strings.TrimSpace(statements))
		}
		rows := results[skip+i].Rows
		var row []string
		for _, value := range rows[len(rows)-1] {
			row = append(row, string(value))
		}
		last = append(last, row)
	}
	return last, nil
}
