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

// live sends the parts of the page that changed, as server-sent events with the same HTML that the page had; static/live.js puts
// them in their place. It ends with the request, and when the site stops. If the database does not answer it ends too:
// the browser tries again after a second, and shows that it does.
func (s *site) live(stopping context.Context, w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(stopping, cancel)()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	ticker := time.NewTicker(boardAge)
	defer ticker.Stop()
	var shown *board
	for quiet := 0; ; quiet++ {
		next, err := s.boards.now(ctx)
		if err != nil {
			return
		}
		events, err := changes(shown, &next, s.smtpAddr)
		if err != nil {
			slog.ErrorContext(ctx, "board not shown", slog.Any("error", err))
			return
		}
		if shown == nil {
			events = "retry: 1000\n\n" + events
		}
		if events == "" && quiet >= 100 {
			events = ": nothing new\n\n" // somebody who is gone without a word is noticed by this
		}
		shown = &next
		if events != "" {
			quiet = 0
			_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second)) // without it a write would wait longer
			if _, err := io.WriteString(w, events); err != nil || out.Flush() != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// changes returns an event for each part of the board that is not what was shown. shown is nil at first.
func changes(shown, next *board, smtpAddr string) (events string, err error) {
	var parts []string
	if shown == nil || !reflect.DeepEqual(shown.Columns, next.Columns) {
		parts = append(parts, "jobs")
	}
	if shown == nil || shown.Mails != next.Mails || !reflect.DeepEqual(shown.Newest, next.Newest) || shown.MailComes() != next.MailComes() {
		parts = append(parts, "outbox")
	}
	view := boardView{board: *next, SMTPAddr: smtpAddr, Now: time.Now()}
	for _, part := range parts {
		var html strings.Builder
		if err := templates.ExecuteTemplate(&html, part, view); err != nil {
			return "", err
		}
		lines := strings.NewReplacer("\r", "", "\n", "\ndata: ").Replace(html.String())
		events += fmt.Sprintf("event: %s\ndata: %s\n\n", part, lines)
	}
	return events, nil
}
