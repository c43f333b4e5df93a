package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
)

// Diagnosis is what the doctor has found.
type Diagnosis struct {
	At     time.Time `json:"at"` // by the database's clock
	Schema string    `json:"schema"`
	// Findings are what is wrong, or about to be, the worst first. A healthy database has none.
	Findings []Finding `json:"findings"`
	// Notes are what is no fault, and good to know.
	Notes []string `json:"notes,omitempty"`
	// Missing is what could not be looked at.
	Missing []Missing `json:"missing,omitempty"`
}

// Finding is one thing that is wrong.
type Finding struct {
	Code     FindingCode `json:"code"`
	Text     string      `json:"text"` // sentences
	Remedies []Remedy    `json:"remedies,omitempty"`
	// Fix is the SQL by which [Admin.Fix] puts it right; "": somebody has to decide what is to be done.
	Fix string `json:"fix,omitempty"`

	Object   string    `json:"object,omitempty"`   // the table, function, queue, task, role or setting
	Count    int64     `json:"count,omitempty"`    // how many jobs, rows or queues
	Since    Time      `json:"since,omitzero"`     //
	Sessions []Session `json:"sessions,omitempty"` //
	Stack    string    `json:"stack,omitempty"`    // of goroutines
}

// FindingCode names a kind of finding. New ones may be added.
type FindingCode string

// What the doctor finds.
const (
	SchemaUnusable    FindingCode = "schema_unusable"    // a breaking or incomplete revision
	LedgerForeign     FindingCode = "ledger_foreign"     // rows of the Rust port's
	FunctionChanged   FindingCode = "function_changed"   // by somebody else than Graphile Worker and backfill
	IndexBroken       FindingCode = "index_broken"       // its build was interrupted
	IndexBloated      FindingCode = "index_bloated"      // much larger than its rows need
	TriggerForeign    FindingCode = "trigger_foreign"    // on a table of the queue's
	OwnerDiffers      FindingCode = "owner_differs"      // of one table
	RightMissing      FindingCode = "right_missing"      // of a role that works or reads
	SettingUnsafe     FindingCode = "setting_unsafe"     // voids a promise
	ClockSkew         FindingCode = "clock_skew"         // between this machine and the server
	ListenFails       FindingCode = "listen_fails"       // notifications do not arrive
	NotificationsFull FindingCode = "notifications_full" // their queue fills
	VacuumBehind      FindingCode = "vacuum_behind"      // of a table
	SnapshotHeld      FindingCode = "snapshot_held"      // which keeps vacuum from removing rows
	TransactionOpen   FindingCode = "transaction_open"   // of ours, for long
	SequenceNearEnd   FindingCode = "sequence_near_end"  //
	QueueNames        FindingCode = "queue_names"        // many that no job has
	QueueUnlocked     FindingCode = "queue_locked"       // and no job of it is
	DanglingTask      FindingCode = "dangling_task"      // of jobs, without a row
	DanglingQueue     FindingCode = "dangling_queue"     // of jobs, without a row
	FailedKeys        FindingCode = "failed_keys"        // jobs that failed for good hold keys
	TaskUnserved      FindingCode = "task_unserved"      // its jobs wait, and no worker takes them
	GoroutinesLeak    FindingCode = "goroutines_leak"    // of a task's jobs, which have ended
	HistoryOverdue    FindingCode = "history_overdue"    // partitions of it that nobody drops
)

// examining is a diagnosis under way.
type examining struct {
	reading

	revision int   // of Graphile Worker's schema
	most     int64 // rows of a large table that are read
	spare    int64 // bytes that an index may have for nothing
	findings []Finding
	roles    []query.DoctorRolesRow // that were given rights
	notes    []string
}

func (x *examining) find(f Finding) { x.findings = append(x.findings, f) }

// doctorTimeout is how long a diagnosis may take, whatever the database does.
const doctorTimeout = 15 * time.Second

const (
	// readMost is how many rows of a large table are read, unless all are.
	readMost = 200_000
	// deepTimeout is how long a diagnosis may take that reads all of them, and a statement of it.
	deepTimeout = 30 * time.Minute
)

// DoctorOptions say how far the doctor looks.
type DoctorOptions struct {
	_ [0]func() // fields may be added

	// Deep reads large tables as a whole: jobs that no worker will ever take, and keys of failed jobs,
	// are found wherever they are, and not only among the first 200,000. It may take minutes.
	Deep bool
}

// Doctor looks for what is wrong with the schema, the server, and what stands in the tables. It
// changes nothing, and waits for no lock. A role that may not read all of it is told what is
// missing. Without options it looks at a bounded number of rows.
func (a *Admin) Doctor(ctx context.Context, options ...DoctorOptions) (*Diagnosis, error) {
	if err := a.allow(ctx, ActionRead, Target{Kind: KindDatabase}); err != nil {
		return nil, err
	}
	timeout, most, statement := doctorTimeout, int64(readMost), time.Duration(0)
	for _, o := range options {
		if o.Deep {
			timeout, most, statement = deepTimeout, math.MaxInt64, deepTimeout
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d *Diagnosis
	var x *examining
	leaks := a.askLeaks(ctx)
	defer leaks.stop()
	err := pg.Read(ctx, a.pool, a.schema, func(r *pg.Reader) error {
		x = &examining{reading: reading{ctx: ctx, reader: r}, most: most, spare: a.spare}
		if statement > 0 {
			if err := r.Patience(ctx, statement); err != nil {
				return err
			}
		}
		if err := x.readServer(); err != nil {
			return err
		}
		if usable, err := x.examineLedger(); err != nil || !usable {
			return err
		}
		if err := x.readWorkers(); err != nil {
			return err
		}
		x.seesSessions()
		for _, examine := range []func() error{
			x.examineFunctions, x.examineIndexes, x.examineTriggers, x.examineOwners, x.examineSettings, x.examineClock, x.examineVacuum,
			x.examineNotifications, x.examineTransactions, x.examineSequences, x.examineLine, x.examineQueues, x.examineKeys,
			x.examineHistory,
		} {
			if err := examine(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	usable := !slices.ContainsFunc(x.findings, func(f Finding) bool { return f.Code == SchemaUnusable })
	if usable && !x.server.Standby {
		if err := a.examineRights(ctx, x); err != nil {
			return nil, err
		}
		x.examineLeaks(leaks)
		if err := a.examineListening(ctx, x); err != nil {
			return nil, err
		}
	}
	d = &Diagnosis{At: x.now, Schema: a.schema}
	d.Missing = x.missing()
	d.Findings = append([]Finding{}, x.findings...)
	d.Notes = slices.DeleteFunc(x.notes, func(note string) bool { return note == "" })
	return d, nil
}

// listenPatience is how long a notification may take that the same process has sent.
const listenPatience = 2 * time.Second

// examineListening sends a notification to itself.
func (a *Admin) examineListening(ctx context.Context, x *examining) error {
	arrives, why, err := pg.ListenArrives(ctx, a.pool, listenPatience)
	if errors.Is(err, pg.ErrUnanswered) {
		x.miss("whether notifications arrive", err.Error())
		return nil
	}
	if err != nil || arrives {
		return err
	}
	x.find(Finding{
		Code: ListenFails,
		Text: "A notification that this connection has sent to itself has not arrived: " + why + ". Workers on such a connection start jobs that are " +
			"enqueued elsewhere only when they look again, every 2 seconds.",
		Remedies: []Remedy{{Text: "Give workers a URL that leads to the server itself, by WithListenURL, or accept that they poll, by WithoutListen."}},
	})
	return nil
}

// examineRights looks whether the roles that were given rights have them still.
func (a *Admin) examineRights(ctx context.Context, x *examining) error {
	conn, err := a.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for _, role := range x.roles {
		kind, name := schema.ReaderRole, "reader"
		switch {
		case role.Operates:
			kind, name = schema.OperatorRole, "operator"
		case role.Works:
			kind, name = schema.WorkerRole, "worker"
		}
		lacks, err := schema.GrantRole(ctx, conn.Conn(), role.Role, kind, schema.Options{Schema: a.schema, Mode: schema.MigrateVerify})
		if err != nil {
			return fmt.Errorf("look at the rights of role %q: %w", role.Role, err)
		}
		if len(lacks) == 0 {
			continue
		}
		f := Finding{
			Code: RightMissing, Object: role.Role, Count: int64(len(lacks)),
			Text: fmt.Sprintf("Role %q was given the rights of a %s, and lacks some of them.", role.Role, name),
		}
		for _, statement := range lacks {
			f.Remedies = append(f.Remedies, Remedy{"As the owner of the tables:", statement})
			f.Fix += strings.TrimSuffix(statement, ";") + ";\n"
		}
		x.find(f)
	}
	return nil
}
