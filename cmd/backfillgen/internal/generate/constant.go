package generate

import (
	"go/types"
	"regexp"
	"slices"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// checkConstants looks at queues and keys without a field: all jobs of the task share them. Rarely
// that is meant, so a word has to say it.
func (p *pkg) checkConstants(t *task, problems *diag.List) {
	queue, hasQueue := t.line.Option("queue")
	key, hasKey := t.line.Option("key")
	switch constant := t.queue.isConstant(); {
	case hasQueue && t.queue == nil: // reported
	case t.serial && !constant:
		problems.Errorf(t.optionPosition("serial"), "serial is for a queue= without fields: leave it out")
	case constant && !t.serial && !p.reportUnbraced(t, queue, "serial", problems):
		problems.Add(diag.Diagnostic{
			Pos: queue.Pos, Warning: true,
			Message: "the jobs of a queue run one at a time, across all workers: leave queue= out to run jobs of " + t.describe() + " at once",
			Hint:    "if one at a time is what you want, add the word serial: " + queue.Source() + " serial",
		})
	}
	switch constant := t.key.isConstant(); {
	case hasKey && t.key == nil || t.unsigned: // reported
	case t.singleton && !constant:
		problems.Errorf(t.optionPosition("singleton"), "singleton is for a key= without fields: leave it out")
	case constant && !t.singleton && t.many() && !p.reportUnbraced(t, key, "singleton", problems):
		problems.Add(diag.Diagnostic{
			Pos: key.Pos, Warning: true,
			Message: "all jobs of " + t.describe() + " have this key, whatever their args are, so that each replaces the one that waits: put fields into it, such as {" +
				exampleField(t) + "}",
			Hint: "if at most one job is to wait, add the word singleton: " + key.Source() + " singleton",
		})
	}
}

// isConstant reports whether there is a template, and it has no field.
func (t *template) isConstant() bool {
	return t != nil && !slices.ContainsFunc(t.parts, part.isField)
}

// exampleField is a field of the args for a message: one that a template can have, if there is one.
func exampleField(t *task) string {
	if t.args.object != nil {
		if structure, ok := t.args.object.Type().Underlying().(*types.Struct); ok {
			for field := range structure.Fields() {
				basic, ok := field.Type().Underlying().(*types.Basic)
				if ok && field.Exported() && basic.Info()&(types.IsString|types.IsInteger) != 0 {
					return field.Name()
				}
			}
		}
	}
	return "ID"
}

var (
	// verb is how printf and SQL mark the place of a value.
	verb = regexp.MustCompile(`%[-+# 0]*(\[\d+\])?[\d.*]*[dsvqxXtTgf]\b|\$\d`)
	// sigil is how other languages mark a variable in a text.
	sigil = regexp.MustCompile(`[$<\[(@]\s*([A-Za-z_]\w*)`)
)

// reportUnbraced reports a constant in which a field seems to be meant: %d, $UserID, user:UserID.
func (p *pkg) reportUnbraced(t *task, option directive.Option, word string, problems *diag.List) bool {
	if t.args.object == nil || t.args.batch {
		return false
	}
	field, at := "", -1
	if found := verb.FindStringIndex(option.Value); found != nil {
		field, at = exampleField(t), found[0]
	}
	for _, name := range identifiers(option.Value) {
		if p.isField(t, name) {
			field, at = name, strings.Index(option.Value, name)
		}
	}
	for _, match := range sigil.FindAllStringSubmatchIndex(option.Value, -1) {
		written := option.Value[match[2]:match[3]]
		if near := t.meantField(written); near != "" {
			field, at = near, match[0]
		}
	}
	if at < 0 {
		return false
	}
	problems.Errorf(option.At(at), "%s template: a field has braces, as in {%s}; this is the same text for all jobs: if that is meant, add the word %s", option.Name, field, word)
	return true
}
