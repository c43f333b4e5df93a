package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backfillhq/go/internal/mask"
)

// APIError is the body of each response that is no answer.
type APIError struct {
	_ [0]func() // fields may be added

	Error     string    `json:"error"` // sentences: what is wrong, and what to do
	Code      string    `json:"code"`  // docs/http-api.md has them
	Timestamp time.Time `json:"timestamp"`
}

// apiError is an error with its response.
type apiError struct {
	status int
	code   string
	text   string
	header http.Header
	cause  error // which the log is told, and the asker is not
}

func (e *apiError) Error() string { return e.text }
func (e *apiError) Unwrap() error { return e.cause }

func writeError(w http.ResponseWriter, e *apiError) {
	maps.Copy(w.Header(), e.header)
	writeJSON(w, e.status, &APIError{Error: mask.Secrets(e.text), Code: e.code, Timestamp: time.Now().UTC()})
}

// writeJSON writes a body. Payloads in it are copied as they are, numbers as well.
func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error":"the answer could not be written","code":"INTERNAL","timestamp":"`+
			time.Now().UTC().Format(time.RFC3339Nano)+`"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // who does not listen any more is not told
}

// explain makes the response of an error of a route.
func (r *route) explain(ctx context.Context, err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	_, unreadable := errors.AsType[*UnreadableError](err)
	switch {
	case errors.Is(err, ErrNotFound):
		return &apiError{status: http.StatusNotFound, code: r.missing, text: text}
	case errors.Is(err, ErrForbidden):
		return &apiError{status: http.StatusForbidden, code: "FORBIDDEN", text: text}
	case errors.Is(err, ErrInvalid):
		return &apiError{status: http.StatusUnprocessableEntity, code: "INVALID_REQUEST", text: text}
	case errors.Is(err, ErrExpired), errors.Is(err, ErrFixChanged):
		return &apiError{status: http.StatusConflict, code: "PREVIEW_EXPIRED", text: text}
	case errors.Is(err, ErrNoRecords):
		return &apiError{status: http.StatusServiceUnavailable, code: "MIGRATE_REQUIRED", text: ErrNoRecords.Error(), cause: err}
	case unreadable:
		return &apiError{status: http.StatusServiceUnavailable, code: "UNREADABLE", text: text}
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
		return &apiError{status: http.StatusServiceUnavailable, code: "TIMEOUT", text: "the database did not answer in time: try again", cause: err}
	case isUnreachable(err):
		return &apiError{status: http.StatusServiceUnavailable, code: "DATABASE_UNAVAILABLE", text: "the database cannot be reached: the log says why", cause: err}
	case isRefused(err):
		return &apiError{status: http.StatusServiceUnavailable, code: "DATABASE_REFUSES", text: text, cause: err}
	}
	return &apiError{status: http.StatusInternalServerError, code: r.failure, text: "the request has failed: the log says why", cause: err}
}

// isUnreachable reports whether there is no database to ask.
func isUnreachable(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return pgconn.SafeToRetry(err)
	}
	return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P") || strings.HasPrefix(e.Code, "53")
}

// isRefused reports whether the database says that this role, or any, may not do it: an operator has
// to do something, which the text says.
func isRefused(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "42501" || e.Code == "25006") // insufficient_privilege, read_only_sql_transaction
}

// conflict is the response for what was left as it was.
func conflict(outcome *Outcome) *apiError {
	code, why := "SKIPPED_"+strings.ToUpper(string(outcome.Skip)), string(outcome.Skip)
	switch outcome.Skip {
	case SkipRunning, SkipForeign:
		code, why = "JOB_ALREADY_IN_PROGRESS", "a worker has it"
	case SkipChanged:
		why = "it has changed since it was seen: look at it again"
	case SkipLocked:
		why = "another transaction has its row locked: try again"
	default: // it speaks for itself
	}
	text := fmt.Sprintf("%s was left as it was: %s", outcome.ID, why)
	if outcome.Worker != "" {
		text += ", " + outcome.Worker
	}
	if outcome.JobID != 0 {
		text += ", job " + strconv.FormatInt(outcome.JobID, 10)
	}
	if outcome.Detail != "" {
		text += " (" + outcome.Detail + ")"
	}
	return &apiError{status: http.StatusConflict, code: code, text: text}
}

// settled makes a change that was left out an error.
func settled(outcome *Outcome, err error) (*Outcome, error) {
	if err == nil && outcome.Skip != "" {
		return nil, conflict(outcome)
	}
	return outcome, err
}
