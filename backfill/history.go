package backfill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/backfillhq/go/internal/mask"
	"github.com/backfillhq/go/internal/wire"
	"github.com/backfillhq/go/internal/worker"
)

const (
	// MaxOutput is how large an output may be, as JSON in ASCII.
	MaxOutput = 1 << 20

	minHistory, maxHistory = time.Hour, 400 * 24 * time.Hour
)

// ErrNoHistory says that nothing is kept of the attempts of a task: set History in its descriptor, or
// give its workers [WithHistory].
var ErrNoHistory = errors.New("the task has no history: set history= in its directive, or give its workers WithHistory")

// OutputTooLargeError says that an output has more than [MaxOutput] bytes.
type OutputTooLargeError struct {
	_ [0]func() // fields may be added

	Bytes int
}

// Error says how large it is, and what to do.
func (e *OutputTooLargeError) Error() string {
	if e == nil {
		return "the output is too large"
	}
	return fmt.Sprintf("the output has %d bytes as JSON, and may have %d: store it elsewhere, and keep a reference", e.Bytes, MaxOutput)
}

func checkHistory(retention time.Duration) error {
	if retention < minHistory || retention > maxHistory {
		return fmt.Errorf("history %v is out of range: want an hour to 400 days", retention)
	}
	return nil
}

// Output keeps v, as encoding/json writes it, as the result of the job whose handler was given ctx.
// It is kept with the attempt if that completes the job, in the same statement, or the same
// transaction if the task is transactional, for as long as the task's history. A second call replaces
// the first; a nil v is kept as null, which is not the same as no output.
//
// An error says that v cannot be kept: it is not JSON, it is too large ([OutputTooLargeError]), the
// task has no history ([ErrNoHistory]), or ctx is not of a handler. Unless a later call replaces it,
// the attempt then fails with this error, also if its handler returns nil.
func Output(ctx context.Context, v any) error {
	carried, ok := jobContextOf(ctx)
	switch {
	case !ok:
		return errors.New("keep output: the context is not that of a handler")
	case carried.kept == nil:
		return fmt.Errorf("keep output: %w", ErrNoHistory)
	}
	output, err := encodeOutput(v)
	if err != nil {
		err = fmt.Errorf("keep output: %w", err)
	}
	carried.kept.put(output, err)
	return err
}

// encodeOutput writes JSON in ASCII, which a server of any encoding can store.
func encodeOutput(v any) (encoded []byte, err error) {
	defer recoverAs("encode the output", &err)
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var ascii bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf:
			ascii.WriteByte(byte(r))
		case r > 0xFFFF:
			r -= 0x10000
			fmt.Fprintf(&ascii, `\u%04x\u%04x`, 0xD800+r>>10, 0xDC00+r&0x3FF)
		default:
			fmt.Fprintf(&ascii, `\u%04x`, r)
		}
	}
	if ascii.Len() > MaxOutput {
		return nil, &OutputTooLargeError{Bytes: ascii.Len()}
	}
	return ascii.Bytes(), nil
}

// Logger returns a logger for the handler that was given ctx. Its lines go where the worker's own go,
// with the job's task, id and attempt, and, if the task has a history, are kept with the attempt: the
// first and the last 30 kB of them, from INFO on, and of the levels below that the worker's logger
// takes. Outside a handler it is slog.Default().
func Logger(ctx context.Context) *slog.Logger {
	carried, ok := jobContextOf(ctx)
	if !ok || carried.logger == nil {
		return slog.Default()
	}
	logger := carried.logger.With(
		slog.String("task", carried.job.Task), slog.Int64("job_id", carried.job.ID), slog.Int("attempt", carried.job.Attempt),
	)
	if carried.kept == nil {
		return logger
	}
	lines := slog.NewTextHandler(carried.kept, &slog.HandlerOptions{Level: slog.LevelDebug})
	return slog.New(bothHandlers{logger.Handler(), lines})
}

func jobContextOf(ctx context.Context) (*jobContext, bool) {
	if ctx == nil {
		return nil, false
	}
	carried, ok := ctx.Value(jobContextKey{}).(*jobContext)
	return carried, ok
}

// bothHandlers is a handler whose records are kept as well.
type bothHandlers struct{ logger, lines slog.Handler }

func (h bothHandlers) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.logger.Enabled(ctx, level)
}

func (h bothHandlers) Handle(ctx context.Context, record slog.Record) error {
	_ = h.lines.Handle(ctx, record.Clone()) // which cannot fail
	if !h.logger.Enabled(ctx, record.Level) {
		return nil
	}
	return h.logger.Handle(ctx, record)
}

func (h bothHandlers) WithAttrs(attrs []slog.Attr) slog.Handler {
	return bothHandlers{h.logger.WithAttrs(attrs), h.lines.WithAttrs(attrs)}
}

func (h bothHandlers) WithGroup(name string) slog.Handler {
	return bothHandlers{h.logger.WithGroup(name), h.lines.WithGroup(name)}
}

// keptLog is how many bytes of the log of an attempt are kept from its beginning, and from its end.
const keptLog = 30_000

// kept is what an attempt leaves for the history. A nil one keeps nothing.
type kept struct {
	mu     sync.Mutex
	began  time.Time // when the handler was called, in a transaction
	output []byte    // nil: none
	failed error     // why the last output could not be kept

	head, tail []byte // of the log; the tail is a ring once it is full
	next       int    // where the ring goes on
	left       int64  // bytes between the two that are not kept
}

func (k *kept) put(output []byte, failed error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.output, k.failed = output, failed
}

// again begins another run of a transaction, whose output counts alone.
func (k *kept) again() {
	if k != nil {
		k.put(nil, nil)
		k.began = time.Now()
	}
}

// check returns the error of an attempt: that of its output, if the handler has none.
func (k *kept) check(err error) error {
	if k == nil || err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed
}

func (k *kept) result() []byte {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.output
}

// record is what goes into the history when a transaction completes its job.
func (k *kept) record(job *wire.Job) *worker.Record {
	if k == nil {
		return nil
	}
	return &worker.Record{Task: job.Task, Queue: job.Queue, Key: job.Key, Took: time.Since(k.began), Output: k.result(), Log: k.text()}
}

// Write takes one line of the log. Secrets are hidden before anything is cut.
func (k *kept) Write(line []byte) (int, error) {
	text := []byte(mask.Secrets(strings.ReplaceAll(strings.ToValidUTF8(string(line), "\uFFFD"), "\x00", "")))
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next == 0 && k.tail == nil && len(k.head)+len(text) <= keptLog {
		k.head = append(k.head, text...)
		return len(line), nil
	}
	if over := len(text) - keptLog; over > 0 {
		k.left += int64(over)
		text = text[over:]
	}
	for len(text) > 0 {
		if len(k.tail) < keptLog {
			n := min(keptLog-len(k.tail), len(text))
			k.tail, text = append(k.tail, text[:n]...), text[n:]
			continue
		}
		n := copy(k.tail[k.next:], text)
		k.left += int64(n)
		k.next, text = (k.next+n)%keptLog, text[n:]
	}
	return len(line), nil
}

// text returns the log, with a mark where it is cut.
func (k *kept) text() string {
	if k == nil {
		return ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left == 0 {
		return string(k.head) + string(k.tail)
	}
	end := string(k.tail[k.next:]) + string(k.tail[:k.next])
	left := k.left
	if whole := strings.IndexByte(end, '\n') + 1; whole > 0 { // of the line that is cut, nothing is left
		end, left = end[whole:], left+int64(whole)
	} else {
		end = strings.ToValidUTF8(end, "")
	}
	return fmt.Sprintf("%s… %d bytes left out …\n%s", k.head, left, end)
}
