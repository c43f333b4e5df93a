package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/emersion/go-smtp"
	"github.com/wneessen/go-mail"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/example/tasks"
)

// workshop is what a process needs to work jobs: a worker, and the servers that its tasks talk to.
type workshop struct {
	*backfill.Worker

	summary summary
	history *history
	mail    *smtp.Server
	partner *http.Server
}

// newWorkshop makes a worker. Mail goes to smtpAddr, or else to a mail server of the workshop's
// own.
func newWorkshop(db *database, smtpAddr string, out io.Writer) (*workshop, error) {
	w := &workshop{summary: summary{tallies: map[string]tally{}}, mail: newMailServer(db.pool), partner: newPartner(db.pool)}
	partnerAddr, err := serveLocally(w.partner.Serve)
	tls := mail.TLSOpportunistic
	if err == nil && smtpAddr == "" {
		tls = mail.NoTLS // the mail stays within this process
		smtpAddr, err = serveLocally(w.mail.Serve)
	}
	if err != nil {
		return nil, err
	}
	host, service, err := net.SplitHostPort(smtpAddr)
	port, portErr := strconv.Atoi(service)
	if err := errors.Join(err, portErr); err != nil {
		return nil, fmt.Errorf("SMTP_ADDR=%s: want host:port: %w", smtpAddr, err)
	}
	client, err := mail.NewClient(host, mail.WithPort(port), mail.WithTLSPolicy(tls))
	if err != nil {
		return nil, fmt.Errorf("SMTP_ADDR=%s: %w", smtpAddr, err)
	}
	fmt.Fprintf(out, "mail server   %s\npartner       http://%s\n", smtpAddr, partnerAddr)

	registry := tasks.NewRegistry(tasks.Handlers{
		Mailer:  &tasks.Mailer{DB: db.pool, SMTP: client, Tasks: tasks.NewClient(db.client)},
		Partner: &tasks.Partner{DB: db.pool, URL: "http://" + partnerAddr},
	})
	w.history = newHistory(db.pool)
	w.Worker, err = db.client.NewWorker(registry, db.metrics.Worker(), backfill.WithObserver(func(e backfill.Event) {
		w.summary.observe(e)
		w.history.observe(e)
	}))
	if err != nil {
		w.history.close()
	}
	return w, err
}

// close stops the servers and prints the summary. The worker has to have ended.
func (w *workshop) close(out io.Writer) {
	w.mail.Close()
	w.partner.Close()
	w.history.close()
	w.summary.print(out)
}
