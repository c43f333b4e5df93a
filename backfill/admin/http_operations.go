package admin

import (
	"context"
	"log/slog"
	"net/http"
)

// operationInput names an operation.
type operationInput struct {
	OperationID int64 `path:"id"`
}

// operationRoutes are about changes of many things.
func operationRoutes() []*route {
	return []*route{
		to(http.MethodGet, "/operations", "listOperations", "List operations that were started, the newest first", func(ctx context.Context, a *Admin, in *struct {
			After int64 `query:"after"` // next of the page before
			Limit int   `query:"limit"` // 1 to 1,000; 50 unless it is there
		}) (*OperationList, error) {
			return a.Operations(ctx, in.After, in.Limit)
		}),
		to(http.MethodPost, "/operations", "previewOperation", "Fix what a change of many jobs or dead letters means, and say what it would do", func(ctx context.Context, a *Admin, in *struct {
			Body Bulk `body:"*"`
		}) (*Preview, error) {
			return a.Preview(ctx, in.Body)
		}).as(http.StatusCreated),
		to(http.MethodPost, "/operations/start", "startOperation", "Start what was previewed", func(ctx context.Context, a *Admin, in *struct {
			Body struct {
				reasoned

				Token string `json:"token"`
			} `body:"StartOperation"`
		}) (*Operation, error) {
			o, err := a.Start(ctx, in.Body.Token, ChangeOptions{Reason: in.Body.Reason})
			return a.carried(ctx, o, err)
		}).as(http.StatusAccepted),
		to(http.MethodGet, "/operations/{id}", "showOperation", "Show an operation", func(ctx context.Context, a *Admin, in *operationInput) (*Operation, error) {
			return a.Operation(ctx, in.OperationID)
		}).with("OPERATION_NOT_FOUND", ""),
		to(http.MethodGet, "/operations/{id}/items", "listItems", "List what became of the items of an operation", func(ctx context.Context, a *Admin, in *struct {
			operationInput

			After int64  `query:"after"` // next of the page before
			Limit int    `query:"limit"` // 1 to 1,000; 50 unless it is there
			Skips []Skip `query:"skips"` // only those with one of these
		}) (*ItemList, error) {
			return a.OperationItems(ctx, in.OperationID, in.After, in.Skips, in.Limit)
		}).with("OPERATION_NOT_FOUND", ""),
		to(http.MethodPost, "/operations/{id}/stop", "stopOperation", "Stop an operation", func(ctx context.Context, a *Admin, in *struct {
			operationInput

			Body reasoned `body:"*"`
		}) (*Operation, error) {
			return a.StopOperation(ctx, in.OperationID, ChangeOptions{Reason: in.Body.Reason})
		}).with("OPERATION_NOT_FOUND", ""),
		to(http.MethodPost, "/operations/{id}/resume", "resumeOperation", "Let an operation go on that was stopped, in one's own name", func(ctx context.Context, a *Admin, in *struct {
			operationInput

			Body reasoned `body:"*"`
		}) (*Operation, error) {
			o, err := a.ResumeOperation(ctx, in.OperationID, ChangeOptions{Reason: in.Body.Reason})
			return a.carried(ctx, o, err)
		}).with("OPERATION_NOT_FOUND", "").as(http.StatusAccepted),
	}
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
