package admin

import (
	"context"
	"log/slog"
)

// operationInput names an operation.
type operationInput struct {
	OperationID int64 `path:"id"`
}

// carried carries on an operation that was started, while the process lives: Carry does so as well.
func (a *Admin) carried(ctx context.Context, o *Operation, err error) (*Operation, error) {
	if err == nil && o.State == OperationRunning {
		a.carryAlone(ctx, o.ID)
	}
	return o, err
}

// carryAlone carries on an operation behind the request that has started it, once in a process. It
// ends with the operation, or with the Admin; whoever resumes it carries it on again.
func (a *Admin) carryAlone(ctx context.Context, id int64) {
	if _, does := a.carrying.LoadOrStore(id, true); does {
		return
	}
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer a.carrying.Delete(id)
		if _, err := a.CarryOperation(ctx, id, nil); err != nil {
			a.logger.LogAttrs(ctx, slog.LevelWarn, "an operation is not carried on: resume it", slog.Int64("operation", id), slog.String("error", err.Error()))
		}
	}()
}

type listOperationsInput struct {
	After int64 `query:"after"` // next of the page before
	Limit int   `query:"limit"` // 1 to 1,000; 50 unless it is there
}

func apiListOperations(ctx context.Context, a *Admin, in *listOperationsInput) (*OperationList, error) {
	return a.Operations(ctx, in.After, in.Limit)
}

type previewOperationInput struct {
	Body Bulk `body:"*"`
}

func apiPreviewOperation(ctx context.Context, a *Admin, in *previewOperationInput) (*Preview, error) {
	return a.Preview(ctx, in.Body)
}

type startOperationInput struct {
	Body struct {
		reasoned

		Token string `json:"token"`
	} `body:"*"`
}

func apiStartOperation(ctx context.Context, a *Admin, in *startOperationInput) (*Operation, error) {
	o, err := a.Start(ctx, in.Body.Token, ChangeOptions{Reason: in.Body.Reason})
	return a.carried(ctx, o, err)
}

func apiShowOperation(ctx context.Context, a *Admin, in *operationInput) (*Operation, error) {
	return a.Operation(ctx, in.OperationID)
}

type listItemsInput struct {
	operationInput

	After int64  `query:"after"` // next of the page before
	Limit int    `query:"limit"` // 1 to 1,000; 50 unless it is there
	Skips []Skip `query:"skips"` // only those with one of these
}

func apiListItems(ctx context.Context, a *Admin, in *listItemsInput) (*ItemList, error) {
	return a.OperationItems(ctx, in.OperationID, in.After, in.Skips, in.Limit)
}

type changeOperationInput struct {
	operationInput

	Body reasoned `body:"*"`
}

func apiStopOperation(ctx context.Context, a *Admin, in *changeOperationInput) (*Operation, error) {
	return a.StopOperation(ctx, in.OperationID, ChangeOptions{Reason: in.Body.Reason})
}

func apiResumeOperation(ctx context.Context, a *Admin, in *changeOperationInput) (*Operation, error) {
	o, err := a.ResumeOperation(ctx, in.OperationID, ChangeOptions{Reason: in.Body.Reason})
	return a.carried(ctx, o, err)
}
