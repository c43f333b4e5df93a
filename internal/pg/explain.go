package pg

import (
	"fmt"

	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
)

// explainWork adds to a refusal what lets a role work, or do what an operator does.
func (s Settings) explainWork(err error) error {
	return s.explain(err, "work or change its jobs", "as the owner of its tables, run: "+schema.GrantCommand(s.Schema, s.config.User, schema.WorkerRole))
}

func (s Settings) explain(err error, what, remedy string) error {
	if sqlstate.Of(err) != sqlstate.InsufficientRights {
		return err
	}
	return &schema.StateError{Schema: s.Schema, Found: fmt.Sprintf("role %q may not %s", s.config.User, what), Remedy: remedy, Err: err}
}
