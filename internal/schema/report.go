package schema

// Report is what [Migrate] found and did.
type Report struct {
	// From and To are what the schema was and what it is now. From is zero if it was not there.
	From, To Version
	// Files are the migrations that were run.
	Files []string
	// Index says whether our index for queues is there and valid.
	Index bool
	// Access is the way on which the connection's role enqueues.
	Access Access

	seen bool
}

// Version says how far a schema has been migrated.
type Version struct {
	// Revision is Graphile Worker's.
	Revision int
	// Own is the number of our own last migration.
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
