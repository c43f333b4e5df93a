package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/backfillhq/go/internal/pg"
)

// FixPreview is what [Admin.Fix] would change.
type FixPreview struct {
	At     time.Time `json:"at"` // by the database's clock
	Schema string    `json:"schema"`
	// Token is for Fix, once, as long as the doctor finds the same. "": there is nothing to fix.
	Token string `json:"token,omitempty"`
	// Fixes are the findings that have a Fix. All are fixed in one transaction, or none.
	Fixes []Finding `json:"fixes"`
	// Left are the others: somebody has to decide what is to be done.
	Left []Finding `json:"left"`
}

// Fixed is what was changed.
type Fixed struct {
	Fixes  []Finding `json:"fixes"`
	Record string    `json:"record"` // the id of the record of the change
}

// ErrFixChanged is returned by [Admin.Fix] if the doctor does not find any more what the preview has
// shown, or the token was used. Make a new preview.
var ErrFixChanged = errors.New("the preview does not hold any more")

// PreviewFixes asks the doctor, and says which of the findings Fix puts right, and by which SQL.
func (a *Admin) PreviewFixes(ctx context.Context) (*FixPreview, error) {
	if err := a.allow(ctx, ActionFix, Target{Kind: KindDatabase}); err != nil {
		return nil, err
	}
	preview, err := a.previewFixes(ctx)
	if err == nil && len(preview.Fixes) > 0 {
		nonce := rand.Text()
		preview.Token = nonce + "-" + digest(nonce, preview.Fixes)
	}
	return preview, err
}

func (a *Admin) previewFixes(ctx context.Context) (*FixPreview, error) {
	d, err := a.Doctor(ctx)
	if err != nil {
		return nil, err
	}
	preview := &FixPreview{At: d.At, Schema: d.Schema, Fixes: []Finding{}, Left: []Finding{}}
	for _, f := range d.Findings {
		if f.Fix != "" {
			preview.Fixes = append(preview.Fixes, f)
		} else {
			preview.Left = append(preview.Left, f)
		}
	}
	return preview, nil
}

// digest is the same for the same changes alone.
func digest(nonce string, fixes []Finding) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q", nonce)
	for _, f := range fixes {
		fmt.Fprintf(h, "%q%q%q", f.Code, f.Object, f.Fix)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Fix puts right what the preview has shown that the token is of: all of it in one transaction, with
// the record of the change, or nothing. Statements wait for a lock for a second at most. It needs a
// role that owns the tables. ErrFixChanged says that another preview is needed.
func (a *Admin) Fix(ctx context.Context, token string, options ChangeOptions) (*Fixed, error) {
	if err := a.allow(ctx, ActionFix, Target{Kind: KindDatabase}); err != nil {
		return nil, err
	}
	nonce, want, ok := strings.Cut(token, "-")
	if !ok || nonce == "" || len(nonce) > 100 {
		return nil, invalid(errors.New("this is not the token of a preview"))
	}
	options.ID = "fix " + nonce
	if err := options.check(); err != nil {
		return nil, err
	}
	preview, err := a.previewFixes(ctx)
	if err != nil {
		return nil, err
	}
	if digest(nonce, preview.Fixes) != want {
		return nil, fmt.Errorf("%w: the doctor finds something else now, or it was used", ErrFixChanged)
	}
	detail, err := json.Marshal(struct {
		Fixes []Finding `json:"fixes"`
	}{preview.Fixes})
	if err != nil {
		return nil, err
	}
	first, err := a.writer.Change(ctx, options.ID, func(ctx context.Context, c *pg.Changing) (*pg.Record, error) {
		for _, f := range preview.Fixes {
			if err := c.Execute(ctx, f.Fix); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", f.Code, f.Object, err)
			}
		}
		return &pg.Record{
			Principal: principal(ctx).Name, Action: string(ActionFix), Reason: options.Reason, Kind: string(KindDatabase), Target: a.schema, Detail: detail,
		}, nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("fix what the doctor has found: %w", err)
	case first != nil:
		return nil, usedError(first)
	}
	return &Fixed{Fixes: preview.Fixes, Record: options.ID}, nil
}

func usedError(r *pg.Record) error {
	by := ""
	if r.Principal != "" {
		by = " by " + r.Principal
	}
	return fmt.Errorf("%w: it was used at %s%s", ErrFixChanged, r.At.UTC().Format(time.DateTime+" UTC"), by)
}
