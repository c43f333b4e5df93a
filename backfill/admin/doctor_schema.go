package admin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
)

// oldestRevision is the oldest revision of Graphile Worker's schema that is known here.
const oldestRevision = 18

// examineLedger says which revision the schema has, and whether anything can be said of it.
func (x *examining) examineLedger() (usable bool, err error) {
	_, there := x.relations["migrations"]
	if _, jobs := x.relations[jobsTable]; !there || !jobs {
		x.find(Finding{
			Code: SchemaUnusable, Object: x.reader.Schema(),
			Text:     fmt.Sprintf("The schema %s has no jobs: Graphile Worker's tables are not there, or not all of them.", x.reader.Schema()),
			Remedies: []Remedy{{"To install them:", x.backfill("migrate")}},
		})
		return false, nil
	}
	highest, breaking, known, err := x.readLedger()
	if err != nil || !known {
		return true, err
	}
	x.notes = append(x.notes, x.newer(highest))
	switch {
	case breaking > pg.NewestRevision:
		x.find(Finding{
			Code: SchemaUnusable, Object: x.reader.Schema(), Count: int64(breaking),
			Text: fmt.Sprintf("Revision %d of the schema %s is a breaking change that this version does not know: it knows those up to %d. Nothing else was looked at.",
				breaking, x.reader.Schema(), pg.NewestRevision),
			Remedies: []Remedy{{Text: "Use a version of backfill that knows it."}},
		})
		return false, nil
	case highest < oldestRevision:
		x.find(Finding{
			Code: SchemaUnusable, Object: x.reader.Schema(), Count: int64(highest),
			Text:     fmt.Sprintf("The schema %s is at revision %d, and this version knows those from %d. Nothing else was looked at.", x.reader.Schema(), highest, oldestRevision),
			Remedies: []Remedy{{"To migrate it:", x.backfill("migrate")}},
		})
		return false, nil
	}
	x.revision = highest
	x.examineForeignRows(highest, breaking)
	return true, nil
}

// examineForeignRows names the rows of the ledger that stand for migrations of the Rust port's, which
// uses the numbers 19 and 20 for other ones. Graphile Worker's 19 is a breaking change, and its 20 is
// never without it.
func (x *examining) examineForeignRows(highest, breaking int) {
	_, port := x.relations["_private_workers"]
	if highest < 19 || breaking >= 19 {
		if port {
			x.find(Finding{
				Code: LedgerForeign, Object: "_private_workers",
				Text: fmt.Sprintf("The Rust port of Graphile Worker has been here: the table %s is its own. The rows of %s are Graphile Worker's: nothing of them is missing.",
					x.table("_private_workers"), x.table("migrations")),
				Remedies: []Remedy{{Text: "Workers of the port that still run may add rows under numbers that Graphile Worker uses for others. Stop them before either is upgraded."}},
			})
		}
		return
	}
	f := Finding{Code: LedgerForeign, Object: "migrations", Count: int64(min(highest, pg.NewestRevision) - 18)}
	rows := "Row 19"
	if highest >= 20 {
		rows = "Rows 19 and 20"
	}
	whose := "Somebody else's"
	if port {
		whose = "The Rust port's, whose table " + x.table("_private_workers") + " is there,"
	}
	f.Text = fmt.Sprintf("%s of %s are not Graphile Worker's: its 19 is marked as a breaking change, and this one is not. %s use the same numbers for other migrations. "+
		"So Graphile Worker takes its own for done. Without its 19, workers of version 0.16 do not refuse to start, and they lock jobs under names of their own.",
		rows, x.table("migrations"), whose)
	if highest < 20 {
		f.Text = strings.Replace(f.Text, " are not Graphile Worker's", " is not Graphile Worker's", 1)
	} else {
		f.Text += " Without its 20, add_job and add_jobs use up a number of the tasks and queues with each job."
	}
	f.Remedies = []Remedy{{"To see what is missing, and what would be changed:", x.backfill("migrate --dry-run")}}
	x.find(f)
}

// examineFunctions compares the functions with those that Graphile Worker and backfill install.
func (x *examining) examineFunctions() error {
	rows, _, err := fact(&x.reading, "the functions", func(q *query.Queries, ctx context.Context) ([]query.DoctorFunctionsRow, error) {
		return q.DoctorFunctions(ctx, x.reader.Schema())
	})
	found := map[string]bool{}
	for _, row := range rows {
		if slices.Contains(functionBodies[row.Name], row.Body) {
			found[row.Name] = true // another function with that name has other arguments
		}
	}
	for _, row := range rows {
		if _, ours := functionBodies[row.Name]; !ours || found[row.Name] {
			continue
		}
		found[row.Name] = true
		x.find(Finding{
			Code: FunctionChanged, Object: row.Name,
			Text: fmt.Sprintf("The function %s is not what Graphile Worker or backfill install: somebody has replaced it, or a version did that this one does not know. "+
				"What it does to jobs that run is not known.", x.table(row.Name)),
			Fix: schema.Function(x.reader.Schema(), row.Name, x.revision),
			Remedies: []Remedy{{"To see it:", fmt.Sprintf("select pg_get_functiondef(p.oid) from pg_proc as p where p.pronamespace = %s::regnamespace and p.proname = %s;",
				sqlQuote(pg.QuoteIdentifier(x.reader.Schema())), sqlQuote(row.Name))}},
		})
	}
	for name := range functionBodies {
		if err == nil && len(rows) > 0 && !found[name] && !strings.HasPrefix(name, "backfill_") { // those are not everywhere
			x.find(Finding{
				Code: FunctionChanged, Object: name, Text: fmt.Sprintf("The function %s is not there.", x.table(name)),
				Fix:      schema.Function(x.reader.Schema(), name, x.revision),
				Remedies: []Remedy{{"To see what is missing:", x.backfill("migrate --dry-run")}},
			})
		}
	}
	return err
}

// functionBodies are fingerprints of the bodies that functions have: those of backfill, and of
// Graphile Worker's revisions 18 to 20. DoctorFunctions says how they are made.
var functionBodies = map[string][]string{
	"add_job":                 {"3656c605922852d4135aeaa639a9ae3c", "061016e51830c366270394dcd037f2df", "5ec9dae4bcb6067ef19cb29055be09fa"},
	"add_jobs":                {"d2aff6b93e43feb5d53fb5a4e59e8d75", "0f39713f798292216bb8e6de555ade3a", "ad55ca3902951d675a4150431c24a5b2"},
	"backfill_enqueue":        {"204f4ef2d606f5bdbca0ec6aeb45ee73"},
	"backfill_history_upkeep": {"97e192788d4eb5a55251c3b42d4b1bbe"},
	"complete_jobs":           {"827425bea9cf3d7017ec84490e12b6a6", "46951ec8b68704606c638b94629bffd6"},
	"force_unlock_workers":    {"6f4118e5cca24d5c50f4464d6d9d06e8", "ac7ffbd59fb9ec58c96b1130fe1a160f"},
	"permanently_fail_jobs":   {"6b2208fcbd4c4169d73c3cfd595d8fe1", "aa35dd15766c5ff46b16aacd11087291"},
	"remove_job":              {"8fab39afd42de6d677c4def35708093c", "a420ad54516912859b294dbcde375307"},
	"reschedule_jobs":         {"89335f118a497a2a3dc1b09ca02ed2ef", "f493e01081fbfe3c225f177dd0371bc4"},
}

// examineHistory finds partitions of the history that are older than any task keeps it.
func (x *examining) examineHistory() error {
	if _, there := x.relations[historyTasksTable]; !there || !x.can(historyTasksTable, "for how long the history is kept") {
		return nil
	}
	row, known, err := fact(&x.reading, "the partitions of the history", func(q *query.Queries, ctx context.Context) (query.DoctorHistoryRow, error) {
		return q.DoctorHistory(ctx, x.reader.Schema())
	})
	if known && row.Overdue > 0 && !x.relations[historyTasksTable].Hidden {
		x.find(Finding{
			Code: HistoryOverdue, Object: row.Oldest, Count: row.Overdue,
			Text: fmt.Sprintf("%d weeks of the history are older than any task keeps it, and nobody has dropped them for a day; the first is %s. A worker does it every 10 minutes, "+
				"unless none runs, a session holds a lock of the table, or the role of the workers may not: then their log says so.", row.Overdue, x.table(row.Oldest)),
			Remedies: []Remedy{{"To do it now, as the owner of the tables:", fmt.Sprintf("select * from %s();", x.table("backfill_history_upkeep"))}},
		})
	}
	return err
}

// examineIndexes finds those whose build was interrupted.
func (x *examining) examineIndexes() error {
	rows, _, err := fact(&x.reading, "the indexes", func(q *query.Queries, ctx context.Context) ([]query.DoctorIndexesRow, error) {
		return q.DoctorIndexes(ctx, x.reader.Schema())
	})
	for _, row := range rows {
		f := Finding{
			Code: IndexBroken, Object: row.Name,
			Text:     fmt.Sprintf("The index %s is not valid: its build was interrupted. It costs each insert its time, and no query uses it.", x.table(row.Name)),
			Fix:      fmt.Sprintf("drop index %s;", x.table(row.Name)),
			Remedies: []Remedy{{"To drop it:", fmt.Sprintf("drop index concurrently %s;", x.table(row.Name))}},
		}
		if row.Name == "backfill_jobs_queue_idx" {
			f.Remedies = append(f.Remedies, Remedy{"And to build it again:", x.backfill("migrate")})
		} else if !strings.Contains(row.Name, "_ccnew") && !strings.Contains(row.Name, "_ccold") { // a copy of another one
			f.Remedies = append(f.Remedies, Remedy{"And to build it again:", strings.Replace(row.Definition, " INDEX ", " INDEX CONCURRENTLY ", 1) + ";"})
		}
		x.find(f)
	}
	return err
}

// examineTriggers finds those on the tables of the queue. Nobody of us makes any.
func (x *examining) examineTriggers() error {
	rows, _, err := fact(&x.reading, "the triggers", func(q *query.Queries, ctx context.Context) ([]query.DoctorTriggersRow, error) {
		return q.DoctorTriggers(ctx, x.reader.Schema())
	})
	for _, row := range rows {
		if row.Disabled || !strings.HasPrefix(row.OnTable, "_private_") && !strings.HasPrefix(row.OnTable, "backfill_") {
			continue
		}
		x.find(Finding{
			Code: TriggerForeign, Object: row.Name,
			Text: fmt.Sprintf("The trigger %s on %s calls %s. Neither Graphile Worker nor backfill has made it. It runs in the transactions of workers and of whoever "+
				"enqueues: where it fails, jobs are not claimed, not finished, or not enqueued, and what it costs, each job costs.", strconv.Quote(row.Name), x.table(row.OnTable), row.Function),
			Remedies: []Remedy{{"If it is not wanted:", fmt.Sprintf("drop trigger %s on %s;", pg.QuoteIdentifier(row.Name), x.table(row.OnTable))}},
		})
	}
	return err
}

// examineOwners finds tables that belong to somebody else than most do.
func (x *examining) examineOwners() error {
	rows, _, err := fact(&x.reading, "the owners", func(q *query.Queries, ctx context.Context) ([]query.DoctorOwnersRow, error) {
		return q.DoctorOwners(ctx, x.reader.Schema())
	})
	rows = slices.DeleteFunc(rows, func(row query.DoctorOwnersRow) bool {
		return !strings.HasPrefix(row.Name, "_private_") && !strings.HasPrefix(row.Name, "backfill_") && row.Name != jobsView && row.Name != "migrations"
	})
	owned := map[string]int{}
	usual := ""
	for _, row := range rows {
		if owned[row.Owner]++; owned[row.Owner] > owned[usual] {
			usual = row.Owner
		}
	}
	for _, row := range rows {
		if row.Owner == usual {
			continue
		}
		x.find(Finding{
			Code: OwnerDiffers, Object: row.Name,
			Text: fmt.Sprintf("The owner of %s is %s, and that of the other tables is %s: row level security hides its rows from them, and migrations fail.",
				x.table(row.Name), row.Owner, usual),
			Fix:      fmt.Sprintf("alter table %s owner to %s;", x.table(row.Name), pg.QuoteIdentifier(usual)),
			Remedies: []Remedy{{"To give it to the owner of the others:", fmt.Sprintf("alter table %s owner to %s;", x.table(row.Name), pg.QuoteIdentifier(usual))}},
		})
	}
	if err == nil {
		x.roles, _, err = fact(&x.reading, "the roles", func(q *query.Queries, ctx context.Context) ([]query.DoctorRolesRow, error) {
			return q.DoctorRoles(ctx, x.reader.Schema())
		})
	}
	return err
}

// examineSequences finds those whose numbers run out.
func (x *examining) examineSequences() error {
	rows, _, err := fact(&x.reading, "the sequences", func(q *query.Queries, ctx context.Context) ([]query.DoctorSequencesRow, error) {
		return q.DoctorSequences(ctx, x.reader.Schema())
	})
	for _, row := range rows {
		left := row.Most - row.Last
		x.find(Finding{
			Code: SequenceNearEnd, Object: row.Name, Count: left,
			Text: fmt.Sprintf("The sequence %s is at %d of %d: %d numbers are left. Versions of Graphile Worker before revision 20 take one for each job that is enqueued, "+
				"whether its name is new or not. When it is used up, enqueues fail.", x.table(row.Name), row.Last, row.Most, left),
			Remedies: []Remedy{{Text: "Migrate the schema to revision 20, and see that every process that enqueues is of a newer version. To begin again, with numbers that no row has, " +
				"take a maintenance window: rows have to be renumbered."}},
		})
	}
	return err
}
