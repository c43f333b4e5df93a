package schema

// Access says how a client's role may enqueue.
type Access int

const (
	// WritesTables inserts into the tables, or gets the server's refusal.
	WritesTables Access = iota
	// CallsFunction calls backfill_enqueue, which is all that the role may do.
	CallsFunction
)
