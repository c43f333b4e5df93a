package pg

import (
	"errors"
	"fmt"

	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
)

// explainWork adds to a failure to connect what to check, and to a refusal what lets a role work,
// or do what an operator does.
func (s Settings) explainWork(err error) error {
	return s.explainRights(explainReconnect(s.config.ConnConfig, err))
}

func (s Settings) explainRights(err error) error {
	return s.explain(err, "work or change its jobs", "as the owner of its tables, run: "+schema.GrantCommand(s.Schema, s.config.ConnConfig.User, schema.WorkerRole))
}

// Explain adds to an error of the worker's what lets its role work. A role can lose its rights at
// any time, so an error of any statement may need it.
func (s *Store) Explain(err error) error {
	if _, explained := errors.AsType[*schema.StateError](err); explained {
		return err
	}
	return s.settings.explainRights(err)
}

func (s Settings) explain(err error, what, remedy string) error {
	_, hidden := errors.AsType[*hiddenError](err)
	if !hidden && sqlstate.Of(err) != sqlstate.InsufficientRights {
		return err
	}
	return &schema.StateError{Schema: s.Schema, Found: fmt.Sprintf("role %q may not %s", s.config.ConnConfig.User, what), Remedy: remedy, Err: err}
}
