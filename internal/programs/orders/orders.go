// Package orders has the tables and the tasks of a shop.
package orders

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

//go:generate go tool backfillgen

// Schema makes the tables of the shop, unless they are there.
//
//go:embed schema.sql
var Schema string

// Order is a row of shop.orders.
type Order struct {
	ID       string
	Customer string // an email address
	Quantity int
}

// ErrSoldOut says that there is less in stock than was ordered.
var ErrSoldOut = errors.New("sold out")

// Place inserts an order and the job that mails its receipt, and takes the goods out of the stock.
// It returns false if the order was placed before, with its job. The ctx carries the transaction
// for jobs, and tx is that transaction: backfill.InTx gives both.
func Place(ctx context.Context, tx pgx.Tx, order Order) (placed bool, err error) {
	inserted, err := tx.Exec(ctx, "insert into shop.orders (id, customer, quantity) values ($1, $2, $3) on conflict (id) do nothing",
		order.ID, order.Customer, order.Quantity)
	if err != nil {
		return false, fmt.Errorf("insert order: %w", err)
	}
	if inserted.RowsAffected() == 0 {
		return false, nil
	}
	receipt := ReceiptArgs{OrderID: order.ID, Customer: order.Customer, Quantity: order.Quantity}
	if _, err := EnqueueSendReceipt(ctx, receipt); err != nil {
		return false, err
	}
	taken, err := tx.Exec(ctx, "update shop.stock set left_over = left_over - $1 where left_over >= $1", order.Quantity)
	if err != nil {
		return false, fmt.Errorf("take out of stock: %w", err)
	}
	if taken.RowsAffected() == 0 {
		return false, ErrSoldOut // the caller rolls back: neither the order nor the job remains
	}
	return true, nil
}
