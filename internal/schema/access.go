package schema

// Access says how a client's role may enqueue.
type Access int

const (
	// WritesTables inserts into the tables. A role without rights gets the server's refusal.
	WritesTables Access = iota
	// CallsFunction calls backfill_enqueue, because the role may do nothing else.
	CallsFunction
)
