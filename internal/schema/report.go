package schema

// Access says how a client's role may enqueue.
type Access int

const (
	// WritesTables inserts into the tables. A role without rights gets the server's refusal.
	WritesTables Access = iota
	// CallsFunction calls backfill_enqueue, because the role may do nothing else.
	CallsFunction
)

// Report says what [Migrate] found and did.
type Report struct {
	// From and To are the versions before and after. From is zero if there was no schema.
	From, To Version
	// Files are the migrations and repairs that were run.
	Files []string
	// Index says whether our index for queues is there and valid.
	Index bool
	// Access says how the connection's role enqueues.
	Access Access

	seen bool
}

// Version says how far a schema has been migrated.
type Version struct {
	// Revision is Graphile Worker's.
	Revision int
	// Own is the number of our own newest migration.
	Own int
}

func (r *Report) observe(state *schemaState) {
	r.To = Version{Revision: state.ledger.Highest, Own: state.own}
	r.Index = state.index == indexValid
	r.Access = state.access()
	if !r.seen {
		r.seen, r.From = true, r.To
	}
}
