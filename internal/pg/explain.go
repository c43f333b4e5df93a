package pg

import (
	"fmt"

	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
)

// explainWork adds to a failure to connect what to check, and to a refusal what lets a role work,
// or do what an operator does.
func (s Settings) explainWork(err error) error {
	err = explainReconnect(s.config.ConnConfig, err)
	return s.explain(err, "work or change its jobs", "as the owner of its tables, run: "+schema.GrantCommand(s.Schema, s.config.ConnConfig.User, schema.WorkerRole))
}

func (s Settings) explain(err error, what, remedy string) error {
	if sqlstate.Of(err) != sqlstate.InsufficientRights {
		return err
	}
	return &schema.StateError{Schema: s.Schema, Found: fmt.Sprintf("role %q may not %s", s.config.ConnConfig.User, what), Remedy: remedy, Err: err}
}
