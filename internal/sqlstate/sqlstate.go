// Package sqlstate names the SQLSTATEs that the runtime reacts to.
package sqlstate

import "errors"

// The states, as appendix A of PostgreSQL's manual lists them.
const (
	ProtocolViolation    = "08P01" // poolers report what they do not support by it
	FeatureNotSupported  = "0A000" // also a prepared statement whose tables were altered
	OutOfRange           = "22003"
	InvalidText          = "22P02"
	UniqueViolation      = "23505"
	ReadOnlyTransaction  = "25006" // on a standby as well
	InFailedTransaction  = "25P02" // the echo of an earlier error
	UndefinedStatement   = "26000" // a prepared one
	SerializationFailure = "40001"
	DeadlockDetected     = "40P01"
	InsufficientRights   = "42501"
	UndefinedColumn      = "42703"
	DuplicateObject      = "42710"
	DuplicateFunction    = "42723"
	DatatypeMismatch     = "42804"
	UndefinedFunction    = "42883"
	UndefinedTable       = "42P01"
	DuplicateStatement   = "42P05" // a prepared one
	DuplicateSchema      = "42P06"
	DuplicateTable       = "42P07"
	ProgramLimitExceeded = "54000" // also a full queue of notifications
	LockNotAvailable     = "55P03"
	QueryCanceled        = "57014" // also by statement_timeout
	AdminShutdown        = "57P01"
	CrashShutdown        = "57P02"
	CannotConnectNow     = "57P03"
	DatabaseDropped      = "57P04"
	IdleSession          = "57P05" // idle_session_timeout
	IdleInTransaction    = "25P03" // idle_in_transaction_session_timeout
	TransactionTooLong   = "25P04" // transaction_timeout
)

// EndsSession reports whether a state says that the server has ended a session, or did not let one
// begin, which is about neither the statement nor its transaction.
func EndsSession(state string) bool {
	switch state {
	case AdminShutdown, CrashShutdown, CannotConnectNow, DatabaseDropped, IdleSession, IdleInTransaction, TransactionTooLong:
		return true
	default:
		return false
	}
}

// Of returns the SQLSTATE of an error that the server reported, or "".
func Of(err error) string {
	if state, ok := errors.AsType[interface {
		error
		SQLState() string // pgx's errors have it, and those of other drivers of database/sql
	}](err); ok {
		return state.SQLState()
	}
	return ""
}
