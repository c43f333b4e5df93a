package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/backfillhq/go/internal/pg"
)

// OperationList is a page of operations.
type OperationList struct {
	_ [0]func() // fields may be added

	Operations []*Operation `json:"operations"`
	Next       int64        `json:"next,omitzero"`    // for the page behind it; 0: this is the last one
	Missing    string       `json:"missing,omitzero"` // why they could not be read; "": they were
}

// Operations returns a page of the operations that were started, the newest first: size of them, 50
// if it is 0, behind what Next of the page before says. Those that the principal may not read are
// left out.
func (a *Admin) Operations(ctx context.Context, behind int64, size int) (*OperationList, error) {
	size, err := checkPage(size)
	if err != nil || behind < 0 {
		return nil, invalid(errors.Join(err, errors.New("list operations: the page is none")))
	}
	list := &OperationList{Operations: []*Operation{}}
	list.Missing, err = a.list(ctx, func(ctx context.Context, r *pg.Reader) error {
		found, err := pg.Operations(ctx, r, behind, size+1)
		if len(found) > size {
			found, list.Next = found[:size], found[size-1].ID
		}
		for _, row := range found {
			if !a.may(ctx, ActionRead, Target{Kind: KindOperation, ID: strconv.FormatInt(row.ID, 10)}) {
				continue
			}
			operation, err := newOperation(row)
			if err != nil {
				return err
			}
			list.Operations = append(list.Operations, operation)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list operations: %w", err)
	}
	return list, nil
}

// Operation returns an operation with how far it has come.
func (a *Admin) Operation(ctx context.Context, id int64) (*Operation, error) {
	if err := a.allow(ctx, ActionRead, Target{Kind: KindOperation, ID: strconv.FormatInt(id, 10)}); err != nil {
		return nil, fmt.Errorf("operation %d: %w", id, err)
	}
	var operation *Operation
	missing, err := a.list(ctx, func(ctx context.Context, r *pg.Reader) error {
		row, err := pg.OneOperation(ctx, r, id)
		if errors.Is(err, pg.ErrNoOperation) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		if operation, err = newOperation(row); err != nil {
			return err
		}
		skipped, err := pg.SkippedBy(ctx, r, id)
		operation.SkippedBy = map[Skip]int{}
		for skip, items := range skipped {
			operation.SkippedBy[Skip(skip)] = items
		}
		return err
	})
	if err == nil && operation == nil {
		err = errors.New(missing)
	}
	if err != nil {
		return nil, fmt.Errorf("operation %d: %w", id, err)
	}
	return operation, nil
}

// ItemList is a page of the items of an operation.
type ItemList struct {
	_ [0]func() // fields may be added

	Items   []OperationItem `json:"items"`
	Next    int64           `json:"next,omitzero"`    // for the page behind it; 0: this is the last one
	Missing string          `json:"missing,omitzero"` // why they could not be read; "": they were
}

// OperationItems returns a page of what became of the items of an operation, by id: size of them, 50
// if it is 0, behind what Next of the page before says; with these skips, if there are any. Those
// that the principal may not read are left out.
func (a *Admin) OperationItems(ctx context.Context, id, behind int64, skips []Skip, size int) (*ItemList, error) {
	target := Target{Kind: KindOperation, ID: strconv.FormatInt(id, 10)}
	if err := a.allow(ctx, ActionRead, target); err != nil {
		return nil, fmt.Errorf("items of operation %d: %w", id, err)
	}
	size, err := checkPage(size)
	if err != nil {
		return nil, invalid(err)
	}
	var texts []string
	for _, skip := range skips {
		texts = append(texts, string(skip))
	}
	list := &ItemList{Items: []OperationItem{}}
	list.Missing, err = a.list(ctx, func(ctx context.Context, r *pg.Reader) error {
		o, err := pg.OneOperation(ctx, r, id)
		if errors.Is(err, pg.ErrNoOperation) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		found, err := pg.Items(ctx, r, id, behind, texts, size+1)
		if len(found) > size {
			found, list.Next = found[:size], found[size-1].ID
		}
		for _, item := range found {
			if a.may(ctx, ActionRead, Target{Kind: Place(o.Place).kind(), ID: strconv.FormatInt(item.ID, 10), Task: item.Task, Queue: item.Queue}) {
				list.Items = append(list.Items, newItem(item.Item))
				list.Items[len(list.Items)-1].At = item.At.UTC()
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("items of operation %d: %w", id, err)
	}
	return list, nil
}

func newItem(item pg.Item) OperationItem {
	return OperationItem{
		ID: item.ID, Task: item.Task, Queue: item.Queue, Skip: Skip(item.Skip), Worker: item.Worker, JobID: item.JobID, Detail: item.Detail,
	}
}
