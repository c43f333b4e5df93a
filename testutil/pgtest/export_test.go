package pgtest

// WithDatabase is a connection string for another database of the same server.
var WithDatabase = withDatabase

// NewName names a database that nobody else has.
var NewName = newName
