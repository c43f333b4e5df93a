package backfill

import (
	"context"
	"log/slog"
	"os"
	"reflect"
)

// guardLogger returns a logger whose handler cannot stop the goroutine that logs, and sees no
// secrets.
func guardLogger(logger *slog.Logger) *slog.Logger {
	handler := logger.Handler()
	if _, guarded := handler.(*logHandler); guarded {
		return logger
	}
	stderr := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return slog.New(&logHandler{
		next:  handler,
		guard: &guard{what: "the handler of the logger", limit: userLimit, logger: stderr},
	})
}

// logHandler passes records on to the user's handler. Where that fails, the record is lost, and
// stderr says so.
type logHandler struct {
	next  slog.Handler
	guard *guard // shared by the handlers that are derived from one
}

// Enabled is asked for every job, so the handlers of log/slog, which do not call Goexit, are asked
// directly.
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	var enabled bool
	var err error
	if fromSlog(h.next) {
		enabled, err = h.askDirectly(ctx, level)
	} else {
		err = h.guard.try(func() { enabled = h.next.Enabled(ctx, level) })
	}
	if err != nil {
		return level >= slog.LevelInfo // its Handle may do better
	}
	return enabled
}

func (h *logHandler) askDirectly(ctx context.Context, level slog.Level) (enabled bool, err error) {
	defer recoverAs("enabled", &err)
	return h.next.Enabled(ctx, level), nil
}

func fromSlog(handler slog.Handler) bool {
	t := reflect.TypeOf(handler)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == "log/slog"
}

func (h *logHandler) Handle(ctx context.Context, record slog.Record) error {
	record = masked(record)
	var err error
	if problem := h.guard.try(func() { err = h.next.Handle(ctx, record) }); problem != nil {
		go h.guard.report(problem) // writing to stderr may block as well
		return problem
	}
	return err
}

// masked returns a record without secrets. Its message is a constant.
func masked(record slog.Record) slog.Record {
	clean := slog.NewRecord(record.Time, record.Level, record.Message, record.PC)
	record.Attrs(func(attr slog.Attr) bool {
		clean.AddAttrs(maskAttr(attr))
		return true
	})
	return clean
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.derive(func() slog.Handler { return h.next.WithAttrs(attrs) })
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return h.derive(func() slog.Handler { return h.next.WithGroup(name) })
}

func (h *logHandler) derive(with func() slog.Handler) slog.Handler {
	var next slog.Handler
	if h.guard.try(func() { next = with() }) != nil || next == nil {
		return h
	}
	return &logHandler{next: next, guard: h.guard}
}

var _ slog.Handler = (*logHandler)(nil)
