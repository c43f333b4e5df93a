// Package billing is a second package of tasks, for snippets that have two.
package billing

import "context"

//go:generate go tool backfillgen

// Gateway takes payments.
type Gateway struct{}

// ChargeArgs is the payload of Charge.
type ChargeArgs struct {
	InvoiceID int64 `json:"invoice_id"`
}

// Charge takes the payment of an invoice.
//
//backfill:task
func (g *Gateway) Charge(ctx context.Context, args ChargeArgs) error { return nil }
