package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/backfillhq/go/backfill"
	"github.com/backfillhq/go/internal/programs/orders"
)

// site answers PUT /orders/{id}. The same order can be sent again, so a browser that got no answer
// repeats its request.
type site struct {
	jobs backfill.Transactor // a *backfill.Client
}

func newSite(jobs backfill.Transactor) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /orders/{id}", site{jobs}.putOrder)
	return traced(mux)
}

// traced makes each request part of the trace that its headers name, or else of a new one.
func traced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := otel.GetTextMapPropagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := otel.Tracer("web").Start(ctx, r.Method)
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (s site) putOrder(w http.ResponseWriter, r *http.Request) {
	var order orders.Order
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16))
	if err := body.Decode(&order); err != nil || order.Customer == "" || order.Quantity < 1 {
		http.Error(w, `want {"customer": "ada@example.com", "quantity": 1}`, http.StatusBadRequest)
		return
	}
	order.ID = r.PathValue("id")
	var placed bool
	err := backfill.InTx(r.Context(), s.jobs, func(ctx context.Context, tx pgx.Tx) (err error) {
		placed, err = orders.Place(ctx, tx, order)
		return err
	})
	switch {
	case err != nil:
		code, text := explain(err)
		slog.WarnContext(r.Context(), "order not placed", slog.String("order", order.ID), slog.Int("status", code), slog.Any("error", err))
		http.Error(w, text, code)
	case placed:
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusOK)
	}
}

// explain returns the answer for an order that was not placed, or perhaps was.
func explain(err error) (code int, text string) {
	var refused *pgconn.PgError
	switch {
	case errors.Is(err, orders.ErrSoldOut):
		return http.StatusConflict, "sold out"
	case errors.Is(err, backfill.ErrInvalidRequest): // an address that is too long for a queue's name
		return http.StatusUnprocessableEntity, "this order cannot be taken"
	case errors.Is(err, backfill.ErrOutcomeUnknown):
		return http.StatusServiceUnavailable, "the order may have been placed: send it again"
	case errors.As(err, &refused): // of the order or, with ErrRejected, of the job
		return http.StatusInternalServerError, "internal error"
	default: // the database was not reached
		return http.StatusServiceUnavailable, "the order was not placed: send it again"
	}
}
