package admin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/backfillhq/go/internal/mask"
	"github.com/backfillhq/go/internal/pg"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/worker"
)

// leaksPatience is how long workers have to say what their jobs have left behind, beside what is
// read meanwhile. They look twice, half a second apart, and may have to wait for a second before,
// because they have answered somebody else. Those that do not listen are waited for in vain.
const leaksPatience = 2 * time.Second

// askingLeaks are workers that are asked, beside everything else.
type askingLeaks struct {
	cancel  context.CancelFunc
	answers chan worker.Answer
	ended   chan struct{}
}

// askLeaks begins to ask. Whoever cannot be asked, or does not answer, tells nothing.
func (a *Admin) askLeaks(ctx context.Context) *askingLeaks {
	ctx, cancel := context.WithTimeout(ctx, leaksPatience)
	l := &askingLeaks{cancel, make(chan worker.Answer, 1000), make(chan struct{})}
	go func() {
		defer close(l.ended)
		defer close(l.answers)
		asking, err := pg.Ask(ctx, a.pool)
		if err != nil {
			return
		}
		defer asking.Close()
		if asking.AskLeaks(ctx) != nil {
			return
		}
		for {
			answer, err := asking.NextAnswer(ctx)
			if err != nil {
				return
			}
			select {
			case l.answers <- answer:
			default:
			}
		}
	}()
	return l
}

// stop ends the asking.
func (l *askingLeaks) stop() {
	l.cancel()
	<-l.ended
}

// examineLeaks waits until all workers that live have answered, or the patience ends.
func (x *examining) examineLeaks(l *askingLeaks) {
	defer l.stop()
	var waiting []string
	for _, w := range x.workers {
		if !w.DeadAt.Valid && silence(w) < deadAfter {
			waiting = append(waiting, w.ID)
		}
	}
	for len(waiting) > 0 {
		answer, ok := <-l.answers
		if !ok {
			return // those that do not listen do not answer; nothing is wrong with that
		}
		w := slices.Index(waiting, answer.Worker)
		if w < 0 {
			continue
		}
		waiting = slices.Delete(waiting, w, w+1)
		for _, leak := range answer.Leaks {
			x.findLeak(x.worker(answer.Worker), leak)
		}
	}
}

func (x *examining) findLeak(w *query.WhyWorkersRow, leak worker.Leak) {
	f := Finding{Code: GoroutinesLeak, Object: leak.Task, Count: int64(leak.Goroutines), Stack: mask.Secrets(leak.Stack)}
	f.Text = fmt.Sprintf("In %s, %s of the task %s, which have ended, have left %s behind", x.place(w), plural(leak.Jobs, "job", "jobs"), strconv.Quote(leak.Task),
		plural(leak.Goroutines, "goroutine", "goroutines"))
	if leak.Certain {
		f.Text += " that can never end: nobody can wake them. The memory that they hold is never freed."
	} else {
		f.Text += " that have not ended half a second later. If they wait for something that does not come, they hold their memory until the process ends."
	}
	f.Remedies = []Remedy{{Text: "Let what the handler starts end with its context, and wait for it in the handler. This is where most of them are:"}}
	x.find(f)
}
