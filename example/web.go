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
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/backfillhq/go/example/tasks"
)

//go:embed templates static
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{"due": due, "took": took}).ParseFS(files, "templates/*.html"))

// site is the web part: it enqueues, and works nothing.
type site struct {
	db       *pgxpool.Pool
	jobs     tasks.Client
	smtpAddr string // where mail goes; "": to the outbox
	boards   boards
	metrics  http.Handler // nil: none
}

func newSite(db *pgxpool.Pool, jobs tasks.Client, smtpAddr string) *site {
	return &site{db: db, jobs: jobs, smtpAddr: smtpAddr, boards: boards{db: db}}
}

// policy lets a page load what is in the folder static, and nothing else: a script or style that
// somebody gets into the HTML does not run.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// handler routes requests. Pages of other origins must not sign people up, so it refuses what
// browsers say comes from them; there are no accounts and no cookies that would need more than
// that. Streams end with ctx.
func (s *site) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.home)
	mux.HandleFunc("POST /signup", s.signUp)
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, r *http.Request) { s.live(ctx, w, r) })
	mux.Handle("GET /static/", http.FileServerFS(files))
	if s.metrics != nil {
		mux.Handle("GET /metrics", s.metrics)
	}
	guarded := http.NewCrossOriginProtection().Handler(http.MaxBytesHandler(mux, 1<<16))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-cache")
		guarded.ServeHTTP(w, r)
	})
}

// homePage is the one page: the form, or thanks to who has signed up, and the board.
type homePage struct {
	Name, Email string
	Problem     inputError
	Thanks      *subscriber
	boardView
}

// boardView is the board, and what its templates need besides.
type boardView struct {
	board

	SMTPAddr string
	Now      time.Time
}

func (s *site) home(w http.ResponseWriter, r *http.Request) {
	page := homePage{}
	if id, err := strconv.ParseInt(r.FormValue("signed_up"), 10, 64); err == nil {
		var who subscriber
		err := s.db.QueryRow(r.Context(), "select name, email from backfill_example.subscribers where id = $1", id).Scan(&who.Name, &who.Email)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			fail(w, r, err)
			return
		}
		if err == nil {
			page.Thanks = &who
		}
	}
	s.render(w, r, http.StatusOK, page)
}

func (s *site) signUp(w http.ResponseWriter, r *http.Request) {
	page := homePage{Name: r.PostFormValue("name"), Email: r.PostFormValue("email")}
	var id int64
	person, err := newSubscriber(page.Name, page.Email)
	if err == nil {
		id, err = s.subscribe(r.Context(), person)
	}
	problem, ok := errors.AsType[inputError](err)
	switch {
	case err == nil:
		http.Redirect(w, r, fmt.Sprintf("/?signed_up=%d", id), http.StatusSeeOther)
	case ok:
		page.Problem = problem
		s.render(w, r, http.StatusUnprocessableEntity, page)
	default:
		fail(w, r, err)
	}
}

// subscribe inserts a subscriber and enqueues what follows, in one transaction: both or neither.
func (s *site) subscribe(ctx context.Context, person subscriber) (id int64, err error) {
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			insert into backfill_example.subscribers (name, email) values ($1, $2)
			on conflict (email) do nothing returning id`, person.Name, person.Email).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return inputError{Email: person.Email + " has signed up already"}
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
	return id, err
}

// render answers with the page, and the board as it is now.
func (s *site) render(w http.ResponseWriter, r *http.Request, status int, page homePage) {
	now, err := s.boards.now(r.Context())
	if err != nil {
		fail(w, r, err)
		return
	}
	page.boardView = boardView{board: now, SMTPAddr: s.smtpAddr, Now: time.Now()}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := templates.ExecuteTemplate(w, "page.html", page); err != nil {
		slog.WarnContext(r.Context(), "page not shown", slog.Any("error", err))
	}
}

// dueTime is when a job is due, and how long that is from now on.
type dueTime struct {
	At   time.Time
	Left string
}

func due(now, at time.Time) dueTime { return dueTime{At: at, Left: short(max(at.Sub(now), 0))} }

// short says how long something takes, as static/live.js does.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	default:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
}

func took(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	}
	return short(d)
}

// fail answers a request that could not be served for a reason of ours.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "request failed", slog.Any("error", err))
	http.Error(w, "something went wrong; the log says what", http.StatusInternalServerError)
}

// listen opens the site's port. If the default port is taken, it takes a free one; if the address
// that -listen names is taken, it fails.
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
	server := &http.Server{Handler: s.handler(ctx), ReadHeaderTimeout: 10 * time.Second}
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
