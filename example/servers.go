package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/mail"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The tasks talk to two servers. In real life these belong to somebody else.

// serveLocally serves on a free port of the loopback interface, until the server is closed.
func serveLocally(serve func(net.Listener) error) (addr string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go serve(listener) //nolint:errcheck // it ends when the server is closed
	return listener.Addr().String(), nil
}

// newMailServer returns a mail server that delivers nothing: what arrives goes into the outbox,
// where everybody can see it.
func newMailServer(db *pgxpool.Pool) *smtp.Server {
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{db: db}, nil }))
	server.EnableSMTPUTF8 = true
	server.ErrorLog = slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn)
	return server
}

// session is one connection to the mail server.
type session struct {
	db        *pgxpool.Pool
	recipient string
}

func (s *session) Mail(string, *smtp.MailOptions) error      { return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error { s.recipient = to; return nil }
func (s *session) Reset()                                    {}
func (s *session) Logout() error                             { return nil }

func (s *session) Data(r io.Reader) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	message, err := mail.ReadMessage(r)
	if err != nil {
		return err // a 554: the sender need not try again
	}
	body, err := io.ReadAll(quotedprintable.NewReader(message.Body)) // as the Mailer encodes it
	if err == nil {
		_, err = s.db.Exec(ctx, "insert into backfill_example.outbox (message_id, recipient, subject, body) values ($1, $2, $3, $4)",
			message.Header.Get("Message-ID"), s.recipient, message.Header.Get("Subject"), string(body))
	}
	if err != nil {
		return &smtp.SMTPError{Code: 451, Message: err.Error()} // the sender has to try again
	}
	return nil
}

// newPartner returns the HTTP API of a partner, which is not always available: it answers 503 to
// the first two calls for a subscriber.
func newPartner(db *pgxpool.Pool) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /members/{id}", func(w http.ResponseWriter, r *http.Request) {
		var calls int // in the database, because every worker process has such a server
		err := db.QueryRow(r.Context(), `
			insert into backfill_example.partner_calls as partner (subscriber_id, calls) values ($1::text::bigint, 1)
			on conflict (subscriber_id) do update set calls = partner.calls + 1 returning calls`, r.PathValue("id")).Scan(&calls)
		if err != nil || calls <= 2 {
			http.Error(w, "come back later", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, `{"number": "M-%s"}`, r.PathValue("id"))
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
}
