package admin

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/backfillhq/go/internal/pg/query"
)

// examineSettings finds settings that void a promise.
func (x *examining) examineSettings() error {
	rows, _, err := fact(&x.reading, "the settings", (*query.Queries).DoctorSettings)
	for _, row := range rows {
		f := Finding{Code: SettingUnsafe, Object: row.Name}
		switch row.Name {
		case "fsync", "full_page_writes":
			f.Text = row.Name + " is off: when the server's machine crashes, the whole database may be lost, and with it the jobs."
		case "synchronous_commit":
			f.Text = "synchronous_commit is off for this role and database: jobs whose enqueue was acknowledged are lost when the server crashes, and ones that were completed run again. " +
				"Workers of backfill set it themselves; enqueues have what their own connection has."
		default:
			f.Text = row.Name + " is off: nobody removes the rows of jobs that are done, so claims get slower and slower."
		}
		f.Text += fmt.Sprintf(" The setting comes from %s.", row.Source)
		f.Remedies = []Remedy{{"Set it back where it was set. For all of the server:", fmt.Sprintf("alter system set %s = on; select pg_reload_conf();", row.Name)}}
		x.find(f)
	}
	return err
}

// examineClock compares this machine's clock with the server's.
func (x *examining) examineClock() error {
	if skew := x.compareClocks(); skew != "" {
		x.find(Finding{Code: ClockSkew, Text: skew, Remedies: []Remedy{{Text: "Set the clocks by NTP. Whoever computes run_at by a clock that is wrong enqueues for the wrong time."}}})
	}
	return nil
}

const (
	// deadLimit is how many dead rows a table may have before it is looked at.
	deadLimit = 100_000
	// vacuumLimit is how long ago vacuum may have been, where there are so many.
	vacuumLimit = 10 * time.Minute
)

// examineVacuum finds tables with dead rows that vacuum does not remove, and who keeps it from
// that.
func (x *examining) examineVacuum() error {
	rows, _, err := fact(&x.reading, "the dead rows", func(q *query.Queries, ctx context.Context) ([]query.DoctorTablesRow, error) {
		return q.DoctorTables(ctx, x.reader.Schema())
	})
	if err != nil {
		return err
	}
	if err := x.examineBloat(); err != nil {
		return err
	}
	dead := int64(0)
	for _, row := range rows {
		dead = max(dead, row.Dead)
		vacuumed := timeOf(row.VacuumedAt)
		late := vacuumed.IsZero() && row.LongUp || !vacuumed.IsZero() && x.now.Sub(vacuumed.Time) > vacuumLimit
		if row.Dead < deadLimit || !row.Off && (!late || row.Dead < deadLimit+row.Live/4) {
			continue
		}
		f := Finding{Code: VacuumBehind, Object: row.Name, Count: row.Dead, Since: vacuumed}
		f.Text = fmt.Sprintf("The table %s has about %d dead rows, and %d live ones: claims have to walk over them.", x.table(row.Name), row.Dead, row.Live)
		switch {
		case row.Off:
			f.Text += " Autovacuum is switched off for this table."
			f.Fix = fmt.Sprintf("alter table %s reset (autovacuum_enabled);", x.table(row.Name))
			f.Remedies = []Remedy{{"To switch it on:", fmt.Sprintf("alter table %s reset (autovacuum_enabled);", x.table(row.Name))}}
		case vacuumed.IsZero():
			f.Text += " It was never vacuumed."
		default:
			f.Text += fmt.Sprintf(" It was last vacuumed %s ago.", span(x.now.Sub(vacuumed.Time)))
		}
		f.Remedies = append(f.Remedies, Remedy{"To remove them now:", fmt.Sprintf("vacuum (analyze) %s;", x.table(row.Name))})
		x.find(f)
	}
	if dead < deadLimit {
		return nil
	}
	holders, _, err := fact(&x.reading, "who holds old rows", (*query.Queries).DoctorSnapshots)
	for _, row := range holders {
		s := Session{Role: row.Role, Application: row.Application, State: row.State, Since: row.Since.Time.UTC(), What: row.Kind}
		f := Finding{Code: SnapshotHeld, Object: row.Name, Count: dead, Since: Time{Time: s.Since}, Sessions: []Session{s}}
		switch row.Kind {
		case "session":
			s.PID, _ = strconv.Atoi(row.Name)
			f.Sessions[0] = s
			f.Text = fmt.Sprintf("%s keeps vacuum from removing rows that were deleted since it began: %d rows are dead.", upper(x.session(s)), dead)
			f.Remedies = []Remedy{{"End the transaction in that application. If that cannot be done, end its session; what it has done is rolled back:", fmt.Sprintf("select pg_terminate_backend(%d);", s.PID)}}
		case "replication slot":
			f.Since, f.Sessions = Time{}, nil
			f.Text = fmt.Sprintf("The replication slot %s, %s, keeps vacuum from removing rows: %d rows are dead.", strconv.Quote(row.Name), row.State, dead)
			f.Remedies = []Remedy{{"If nobody needs it any more, and only then:", fmt.Sprintf("select pg_drop_replication_slot(%s);", sqlQuote(row.Name))}}
		default:
			f.Text = fmt.Sprintf("The prepared transaction %s, %s, keeps vacuum from removing rows that were deleted since then: %d rows are dead.",
				strconv.Quote(row.Name), f.Since.since(x.now), dead)
			f.Remedies = []Remedy{{"If whoever has prepared it does not end it:", fmt.Sprintf("rollback prepared %s;", sqlQuote(row.Name))}}
		}
		x.find(f)
	}
	return err
}

// spareBytes is how large an index may be that has few rows.
const spareBytes = 256 << 20

// examineBloat finds indexes that have kept the size of a crowd that is long gone.
func (x *examining) examineBloat() error {
	rows, _, err := fact(&x.reading, "the sizes of indexes", func(q *query.Queries, ctx context.Context) ([]query.DoctorBloatRow, error) {
		return q.DoctorBloat(ctx, query.DoctorBloatParams{SchemaName: x.reader.Schema(), Spare: x.spare})
	})
	for _, row := range rows {
		x.find(Finding{
			Code: IndexBloated, Object: row.Name, Count: row.Bytes,
			Text: fmt.Sprintf("The index %s takes %d MB for about %d rows: it has kept the size that it had when there were many more. Claims read more of it than they need.",
				x.table(row.Name), row.Bytes>>20, row.Live),
			Remedies: []Remedy{{"To build it anew, while everything goes on:", fmt.Sprintf("reindex index concurrently %s;", x.table(row.Name))}},
		})
	}
	return err
}

// notificationsLimit is the part of the queue of notifications from which it is said.
const notificationsLimit = 0.1

func (x *examining) examineNotifications() error {
	used, known, err := fact(&x.reading, "the queue of notifications", (*query.Queries).DoctorNotifications)
	if known && used > notificationsLimit {
		x.find(Finding{
			Code:     NotificationsFull,
			Text:     fmt.Sprintf("The server's queue of notifications is %.0f %% full: a session that listens is in a transaction that does not end. When it is full, enqueues fail.", used*100),
			Remedies: []Remedy{{"To find the session:", "select pid, application_name, state, xact_start, query from pg_stat_activity where xact_start is not null order by xact_start limit 5;"}},
		})
	}
	return err
}

// examineTransactions finds transactions of ours that do not end.
func (x *examining) examineTransactions() error {
	rows, _, err := fact(&x.reading, "long transactions", (*query.Queries).DoctorTransactions)
	for _, row := range rows {
		s := Session{PID: int(row.Pid.Int32), Application: row.Application, State: row.State, Since: row.Since.Time.UTC()}
		x.find(Finding{
			Code: TransactionOpen, Object: strconv.Itoa(s.PID), Since: Time{Time: s.Since}, Sessions: []Session{s},
			Text:     fmt.Sprintf("Session %d (%s, %s) of a worker or a command of backfill is in its transaction %s.", s.PID, s.Application, s.State, Time{Time: s.Since}.since(x.now)),
			Remedies: []Remedy{{Text: "If it is a transactional task, see why its handler takes that long."}},
		})
	}
	return err
}
