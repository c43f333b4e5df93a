package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/example/tasks"
)

//go:embed templates
var templateFiles embed.FS

var templates = template.Must(template.ParseFS(templateFiles, "templates/*.html"))

// site is the web part: it enqueues, and works nothing.
type site struct {
	db       *pgxpool.Pool
	jobs     tasks.Client
	smtpAddr string // where mail goes; "": to the outbox
}

// handler routes requests. Pages of other origins must not sign people up, so it refuses what browsers say comes from them;
// there are no accounts and no cookies that would need more than that.
func (s *site) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.form)
	mux.HandleFunc("POST /signup", s.signUp)
	mux.HandleFunc("GET /outbox", s.outbox)
	return http.NewCrossOriginProtection().Handler(http.MaxBytesHandler(mux, 1<<16))
}

// formPage is what the page with the form shows.
type formPage struct{ Name, Email, Problem string }

func (s *site) form(w http.ResponseWriter, r *http.Request) {
	render(w, r, http.StatusOK, "form.html", formPage{})
}

func (s *site) signUp(w http.ResponseWriter, r *http.Request) {
	page := formPage{Name: r.PostFormValue("name"), Email: r.PostFormValue("email")}
	person, err := newSubscriber(page.Name, page.Email)
	if err == nil {
		err = s.subscribe(r.Context(), person)
	}
	problem, ok := errors.AsType[inputError](err)
	switch {
	case err == nil:
		http.Redirect(w, r, "/outbox", http.StatusSeeOther)
	case ok:
		page.Problem = problem.Error()
		render(w, r, http.StatusUnprocessableEntity, "form.html", page)
	default:
		fail(w, r, err)
	}
}

// subscribe inserts a subscriber and enqueues what follows, in one transaction: both or neither.
func (s *site) subscribe(ctx context.Context, person subscriber) error {
	return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		var id int64
		err := tx.QueryRow(ctx, `
			insert into backfill_example.subscribers (name, email) values ($1, $2)
			on conflict (email) do nothing returning id`, person.name, person.email).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return inputError(person.email + " has signed up already")
		}
		if err != nil {
			return fmt.Errorf("insert subscriber: %w", err)
		}
		jobs := s.jobs.WithTx(tx)
		if _, err := jobs.EnqueueRegisterMember(ctx, tasks.MemberArgs{SubscriberID: id}); err != nil {
			return err
		}
		_, err = jobs.EnqueueSendWelcome(ctx, tasks.WelcomeArgs{SubscriberID: id, Tips: true})
		return err
	})
}

// outboxPage is what the outbox shows.
type outboxPage struct {
	SMTPAddr    string
	Jobs, Mails int
	Newest      []arrived
}

// arrived is a mail in the outbox.
type arrived struct {
	At                                  time.Time
	MessageID, Recipient, Subject, Body string
}

func (s *site) outbox(w http.ResponseWriter, r *http.Request) {
	page := outboxPage{SMTPAddr: s.smtpAddr}
	err := s.db.QueryRow(r.Context(), `
		select (select count(*) from backfill_example.jobs), (select count(*) from backfill_example.outbox)`).Scan(&page.Jobs, &page.Mails)
	if err != nil {
		fail(w, r, err)
		return
	}
	rows, err := s.db.Query(r.Context(), `
		select arrived_at, message_id, recipient, subject, body from backfill_example.outbox order by id desc limit 50`)
	if err == nil {
		page.Newest, err = pgx.CollectRows(rows, pgx.RowToStructByPos[arrived])
	}
	if err != nil {
		fail(w, r, err)
		return
	}
	render(w, r, http.StatusOK, "outbox.html", page)
}

func render(w http.ResponseWriter, r *http.Request, status int, name string, page any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := templates.ExecuteTemplate(w, name, page); err != nil {
		slog.WarnContext(r.Context(), "page not shown", slog.Any("error", err))
	}
}

// fail answers a request that could not be served for a reason of ours.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "request failed", slog.Any("error", err))
	http.Error(w, "something went wrong; the log says what", http.StatusInternalServerError)
}

// listen opens the site's port. The default gives way to another port when it is taken; an address that was asked for does not.
func listen(addr string) (net.Listener, error) {
	if addr == "" {
		if listener, err := net.Listen("tcp", "127.0.0.1:8080"); err == nil {
			return listener, nil
		}
		addr = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w: choose another address with -listen", err)
	}
	return listener, nil
}

// serve serves the site until ctx ends.
func (s *site) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return server.Shutdown(stopping)
}
