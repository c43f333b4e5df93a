package generate

import (
	"cmp"
	"go/token"
	"slices"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// entry is what a task claims for itself in the database, which all packages of a module share:
// names, identifiers of cron lines, keys.
type entry struct {
	path      string // of the package
	database  string
	task      string // as messages name it inside of the package
	goName    string
	pos       token.Position // of the function
	elsewhere bool           // its package is not generated in this run, so that messages cannot be there

	name    claim
	renamed bool // by name=
	aliases []claim
	crons   []claim
	keys    []keyClaim
}

// claim is a text, and where it is decided.
type claim struct {
	text string
	pos  token.Position
}

type keyClaim struct {
	claim            // as it is written
	form    string   // with {} for each field
	pattern skeleton // nil: the types of the fields are not known
}

// describe names the task for a message in another package.
func (e *entry) describe(in *entry) string {
	if e.path == in.path {
		return e.task
	}
	return e.path + "." + e.task
}

// apart is what else helps if two packages only seem to share a database.
func (e *entry) apart(o *entry) string {
	if e.path == o.path {
		return ""
	}
	return "if the two packages use different databases, write " + directive.Prefix + verbPackage + " database=NAME in the doc comment of one"
}

// entryOf collects what a task claims.
func (p *pkg) entryOf(t *task) *entry {
	e := &entry{path: p.path(), database: p.options.database, task: t.describe(), goName: t.goName, pos: t.pos, name: claim{t.name, t.namePosition()}}
	_, e.renamed = t.line.Option("name")
	for _, alias := range t.aliases {
		e.aliases = append(e.aliases, claim{alias, t.optionPosition("alias")})
	}
	if t.key != nil {
		option, _ := t.line.Option("key")
		e.keys = append(e.keys, keyClaim{claim{option.Value, option.ValuePos}, formOf(option.Value), skeletonOf(t.key)})
	}
	for _, tick := range t.ticks {
		e.crons = append(e.crons, claim{tick.identifier, tick.pos})
		if tick.key != "" {
			e.keys = append(e.keys, keyClaim{claim{tick.key, tick.pos}, tick.key, constantSkeleton(tick.key)})
		}
	}
	return e
}

// checkModule reports what two tasks claim that use one database.
func checkModule(packages []*pkg, tasks [][]*task, problems *diag.List) {
	var entries []*entry
	known := map[string]bool{}
	for i, p := range packages {
		known[p.dir()] = true
		for _, t := range tasks[i] {
			entries = append(entries, p.entryOf(t))
		}
	}
	if len(entries) == 0 {
		return
	}
	for _, p := range packages {
		if module := p.listed.Module; module != nil && module.Dir != "" && !known[module.Dir+"\x00"] {
			known[module.Dir+"\x00"] = true // once for each module
			entries = append(entries, tasksElsewhere(module.Path, module.Dir, known)...)
		}
	}
	byDatabase := map[string][]*entry{}
	for _, e := range entries {
		byDatabase[e.database] = append(byDatabase[e.database], e)
	}
	for _, entries := range byDatabase {
		slices.SortStableFunc(entries, func(a, b *entry) int { // what another package has cannot be reported there
			return cmp.Or(cmp.Compare(index(b.elsewhere), index(a.elsewhere)), cmp.Compare(a.path, b.path),
				cmp.Compare(a.pos.Filename, b.pos.Filename), cmp.Compare(a.pos.Offset, b.pos.Offset))
		})
		checkWireNames(entries, problems)
		checkCrons(entries, problems)
		checkKeys(entries, problems)
	}
}

// checkWireNames reports names and aliases that two tasks have.
func checkWireNames(entries []*entry, problems *diag.List) {
	owners := map[string]*entry{}
	report := func(e *entry, pos token.Position, owner *entry, format string, args ...any) {
		if !e.elsewhere {
			problems.AddHint(pos, e.apart(owner), format, args...)
		}
	}
	for _, e := range entries {
		switch owner := owners[e.name.text]; {
		case owner == nil:
			owners[e.name.text] = e
		case owner.path == e.path && owner.goName == e.goName && !e.renamed && !owner.renamed: // reported with their Go names
		default:
			report(e, e.name.pos, owner, "task name %q is that of %s, too: give one of them another with name=", e.name.text, owner.describe(e))
		}
	}
	for _, e := range entries {
		for _, alias := range e.aliases {
			switch owner := owners[alias.text]; owner {
			case nil:
				owners[alias.text] = e
			case e:
				report(e, alias.pos, e, "alias %q is the task's own name: leave it out", alias.text)
			default:
				report(e, alias.pos, owner, "alias %q is a name of %s: leave it out", alias.text, owner.describe(e))
			}
		}
	}
}

// checkCrons reports identifiers that cron lines of two packages have.
func checkCrons(entries []*entry, problems *diag.List) {
	owners := map[string]*entry{}
	for _, e := range entries {
		for _, cron := range e.crons {
			owner := owners[cron.text]
			switch {
			case owner == nil:
				owners[cron.text] = e
			case owner.path != e.path && !e.elsewhere:
				problems.AddHint(cron.pos, e.apart(owner), "a cron line of %s has the identifier %q, too, so only one of the two would run: give this one another, such as ?id=%s_2",
					owner.describe(e), cron.text, cron.text)
			}
		}
	}
}

// checkKeys reports keys that jobs of two tasks can have: one would replace the other.
func checkKeys(entries []*entry, problems *diag.List) {
	for i, e := range entries {
		for _, key := range e.keys {
			better := "begin it with the task's name, as in " + e.name.text + ":" + key.text
			if strings.HasPrefix(key.text, e.name.text) {
				better = "begin it with another text"
			}
			for _, owner := range entries[:i] {
				if other := slices.IndexFunc(owner.keys, key.canEqual); other >= 0 && !e.elsewhere {
					problems.AddHint(key.pos, e.apart(owner), "this key can be the same as %q of %s, whose waiting job would then become one of %s: %s",
						owner.keys[other].text, owner.describe(e), e.task, better)
					break
				}
			}
		}
	}
}

// canEqual reports whether two templates can give one key. Without the types of fields, only
// templates of one form are taken to.
func (k keyClaim) canEqual(o keyClaim) bool {
	if k.pattern == nil || o.pattern == nil {
		return k.form == o.form
	}
	return k.pattern.canEqual(o.pattern)
}
