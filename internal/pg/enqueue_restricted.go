package pg

import (
	"cmp"
	"fmt"

	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
	"github.com/backfillhq/go/internal/wire"
)

// Through makes an inserter take another way than writing the tables. Call it before the first insert.
func (i *Inserter) Through(access schema.Access) *Inserter {
	i.access = access
	i.pipelines = i.pipelines && access == schema.WritesTables
	return i
}

// explain adds to a refusal what gives the role the right.
func (i *Inserter) explain(err error) error {
	if sqlstate.Of(err) != sqlstate.InsufficientRights {
		return err
	}
	role := i.pool.Config().ConnConfig.User
	return fmt.Errorf("%w; to let role %q enqueue, run as the owner of the tables: %s; then open the client again",
		err, role, schema.GrantCommand(i.texts.schema, role, schema.EnqueueRole))
}

// insertByFunction inserts everything by one call. The function gives out no payloads: a job that is not as it was sent, because
// its key found another one, has none.
func (n *insertion) insertByFunction() statement {
	all := make([]int, len(n.specs))
	keys, modes := make([]string, len(n.specs)), make([]string, len(n.specs))
	for i, spec := range n.specs {
		all[i], keys[i], modes[i] = i, spec.Key, string(cmp.Or(spec.KeyMode, wire.KeyReplace))
	}
	args := append(n.columns(all).argsWithQueues(), keys, modes)
	return statement{text: n.texts.render(query.EnqueueJobs), args: args, read: func(rows rows) error {
		for rows.Next() {
			var ordinal int
			var asSent bool
			job, err := scanJob(rows, &ordinal, &asSent)
			if err != nil {
				return err
			}
			if ordinal < 1 || ordinal > len(n.specs) {
				return fmt.Errorf("backfill_enqueue returned job %d of %d", ordinal, len(n.specs))
			}
			if asSent {
				job.Payload = n.specs[ordinal-1].Payload
			}
			n.jobs[ordinal-1] = job
		}
		return nil
	}}
}
