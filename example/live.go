package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"time"
)

// live sends the parts of the page that changed, as server-sent events with the same HTML that the
// page had; static/live.js puts them in their place. It ends with the request, when the site stops,
// and when the database does not answer: the browser then shows that it connects again.
func (s *site) live(stopping context.Context, w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(stopping, cancel)()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	send := func(events string) error {
		_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second)) // without it a write waits longer
		if _, err := io.WriteString(w, events); err != nil {
			return err
		}
		return out.Flush()
	}
	err := send("retry: 1000\n\n") // a second, before the browser connects again
	ticker := time.NewTicker(boardAge)
	defer ticker.Stop()
	var shown *board
	for quiet := 0; err == nil && ctx.Err() == nil; quiet++ {
		next, readErr := s.boards.now(ctx)
		if readErr != nil {
			return
		}
		events, showErr := changes(shown, &next, s.smtpAddr)
		if showErr != nil {
			slog.ErrorContext(ctx, "board not shown", slog.Any("error", showErr))
			return
		}
		if events == "" && quiet >= 100 {
			events = ": nothing new\n\n" // writing finds out that somebody is gone
		}
		if events != "" {
			err, quiet = send(events), 0
		}
		shown = &next
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// changes returns an event for each part of the board that is not what was shown. shown is nil at
// first.
func changes(shown, next *board, smtpAddr string) (string, error) {
	var parts []string
	if shown == nil || !reflect.DeepEqual(shown.Columns, next.Columns) {
		parts = append(parts, "jobs")
	}
	if shown == nil || shown.Mails != next.Mails || !reflect.DeepEqual(shown.Newest, next.Newest) || shown.MailComes() != next.MailComes() {
		parts = append(parts, "outbox")
	}
	var events strings.Builder
	view := boardView{board: *next, SMTPAddr: smtpAddr, Now: time.Now()}
	for _, part := range parts {
		var html strings.Builder
		if err := templates.ExecuteTemplate(&html, part, view); err != nil {
			return "", err
		}
		lines := strings.NewReplacer("\r", "", "\n", "\ndata: ").Replace(html.String())
		fmt.Fprintf(&events, "event: %s\ndata: %s\n\n", part, lines)
	}
	return events.String(), nil
}
