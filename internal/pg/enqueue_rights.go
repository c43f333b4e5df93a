package pg

import (
	"context"
	"errors"
	"fmt"

	"github.com/backfillhq/go/internal/enqueue"
	"github.com/backfillhq/go/internal/pg/query"
	"github.com/backfillhq/go/internal/schema"
	"github.com/backfillhq/go/internal/sqlstate"
)

// accessOf returns how a session may enqueue: as the pool's role does, if it may do that too. One
// that may not at all is refused by the tables.
func (i *Inserter) accessOf(rights *query.EnqueueRightsRow) schema.Access {
	if rights.Calls && (i.access == schema.CallsFunction || !rights.Writes) {
		return schema.CallsFunction
	}
	return schema.WritesTables
}

// askRights asks which role a session has at this moment, and what it may do.
func (i *Inserter) askRights(ctx context.Context, s session) (*query.EnqueueRightsRow, error) {
	var rights query.EnqueueRightsRow
	err := s.run(ctx, []statement{{
		text: i.texts.render(query.EnqueueRights), args: []any{i.texts.schema}, read: func(rows rows) error {
			if !rows.Next() {
				return errors.New("the rights of the role: no row")
			}
			return rows.Scan(&rights.Role, &rights.Changes, &rights.Writes, &rights.Calls, &rights.Encoding)
		},
	}})
	if err != nil {
		return nil, fmt.Errorf("ask for the rights of the role: %w", err)
	}
	return &rights, nil
}

// accessIn returns how a transaction of the application's may enqueue. Its role is not always that
// of the pool: the transaction may be another login's, or have done SET ROLE. So it is asked each
// time, except for a login role that cannot take another one.
func (i *Inserter) accessIn(ctx context.Context, s session) (access schema.Access, role string, err error) {
	if err := checkEncoding(s.encoding()); err != nil {
		return 0, "", err
	}
	login := s.login()
	if known, ok := i.fixed.Load(login); ok && login != "" {
		return known.(schema.Access), login, nil //nolint:forcetypeassert // only these are stored
	}
	rights, err := i.askRights(ctx, s)
	if err != nil {
		return 0, "", err
	}
	if err := checkEncoding(rights.Encoding); err != nil {
		return 0, "", err
	}
	access = i.accessOf(rights)
	if !rights.Changes && rights.Role == login {
		i.fixed.Store(login, access)
	}
	return access, rights.Role, nil
}

// checkEncoding refuses a session that would misread our texts, which are UTF-8, and store them so.
// SQL_ASCII converts nothing.
func checkEncoding(encoding string) error {
	switch encoding {
	case "", "UTF8", "SQL_ASCII":
		return nil
	default:
		return fmt.Errorf("the session's client_encoding is %s, but jobs are sent as UTF-8: set client_encoding to UTF8", encoding)
	}
}

// otherWay asks what the pool's role may do after it was refused, and reports whether there is
// another way to enqueue than the one that was tried: rights may have changed since the client was
// opened.
func (a *attempt) otherWay(ctx *enqueue.Context) bool {
	if a.rights != nil {
		return false
	}
	a.rights = &query.EnqueueRightsRow{}
	ctx.Step()
	conn, err := a.acquire(ctx)
	if err != nil {
		return false
	}
	defer func() { a.release(ctx, conn, nil) }()
	if a.watch(ctx, conn) != nil {
		return false
	}
	ctx.Step()
	rights, err := a.askRights(ctx.Statements(), pgxSession{conn, conn.Conn()})
	if err != nil {
		return false
	}
	a.rights = rights
	tried := a.access
	switch {
	case tried == schema.WritesTables && rights.Calls: // row level security may have refused it
		a.access = schema.CallsFunction
	case tried == schema.CallsFunction && rights.Writes:
		a.access = schema.WritesTables
	}
	return a.access != tried
}

// role is the one that was refused; "" if it is not known.
func (a *attempt) role() string {
	if a.rights == nil {
		return ""
	}
	return a.rights.Role
}

// explainRights adds to a refusal what gives the role the right.
func (i *Inserter) explainRights(err error, role string) error {
	if role == "" {
		role = i.pool.Config().ConnConfig.User
	}
	return fmt.Errorf("%w; to let role %q enqueue, run as the owner of the tables: %s",
		err, role, schema.GrantCommand(i.texts.schema, role, schema.EnqueueRole))
}

// refusedIn explains an error in a transaction of the application's.
func (i *Inserter) refusedIn(s session, role string, err error) error {
	switch sqlstate.Of(err) {
	case sqlstate.InsufficientRights:
		i.fixed.Delete(s.login()) // its rights have changed: ask again
	case sqlstate.ReadOnlyTransaction:
		return fmt.Errorf("%w; the transaction is read-only, or its server takes no writes: begin one that writes, on the primary", err)
	}
	return i.explain(err, role)
}
