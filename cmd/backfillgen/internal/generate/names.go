package generate

import (
	"go/token"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
)

// snakeCase is the wire name of a function: an underscore comes before an upper-case letter that follows a lower-case letter or
// a digit, or that precedes a lower-case letter inside a run of upper case. SendSMS is send_sms, HTTPPing is http_ping.
func snakeCase(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 {
			before := runes[i-1]
			inRun := unicode.IsUpper(before) && i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if unicode.IsLower(before) || unicode.IsDigit(before) || inRun {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// nameGo finds what the task is called in generated Go names: the function's name with an upper-case first letter.
func (t *task) nameGo(problems *diag.List) bool {
	name := t.decl.Name.Name
	first, size := utf8.DecodeRuneInString(name)
	t.goName = string(unicode.ToUpper(first)) + name[size:]
	if !token.IsExported(t.goName) {
		problems.Errorf(t.pos, "task function %s: its name has to begin with a letter that has an upper case, for Enqueue%s", name, name)
		return false
	}
	return true
}

// generatedNames are the names that the generated file declares for t, or without a task for the package.
func (t *task) generatedNames() []string {
	if t == nil {
		return []string{"Client", "NewClient", "Client.WithTx", "Client.WithSQLTx", "Client.enqueuer", "Handlers", "NewRegistry"}
	}
	names := []string{"Task" + t.goName, "Enqueue" + t.goName, "Client.Enqueue" + t.goName}
	if t.many() {
		names = append(names, "Client.Enqueue"+t.goName+"Many")
	}
	return names
}

// usedNames are predeclared names that generated code uses.
var usedNames = []string{"bool", "error", "int", "int64", "nil", "string", "uint64"}

// checkNames reports names that two tasks claim, or that a task claims and the user has declared.
func (p *pkg) checkNames(tasks []*task, problems *diag.List) {
	wire, identifiers, receivers := map[string]*task{}, map[string]*task{}, map[string]string{}
	for _, t := range tasks {
		if first := wire[t.name]; first != nil && identifiers[t.goName] == first {
			// reported as one problem below
		} else if first != nil {
			problems.Errorf(t.namePosition(), "task name %q is that of %s, too: give one of them another with name=", t.name, first.describe())
		} else {
			wire[t.name] = t
		}
		if first := identifiers[t.goName]; first != nil {
			problems.Errorf(t.pos, "%s and %s would both have Enqueue%s: rename one of the two", first.describe(), t.describe(), t.goName)
		} else {
			identifiers[t.goName] = t
		}
		if t.receiver != nil {
			receivers[t.receiver.Obj().Name()] = t.goName
		}
	}
	for _, t := range tasks {
		if short, ok := strings.CutSuffix(t.goName, "Many"); ok && identifiers[short] != nil && identifiers[short].many() {
			problems.Errorf(t.pos, "%s and the Many form of %s would both be Enqueue%s: rename one of the two", t.describe(), identifiers[short].describe(), t.goName)
		}
		for _, alias := range t.aliases {
			switch owner := wire[alias]; owner {
			case nil:
				wire[alias] = t
			case t:
				problems.Errorf(t.optionPosition("alias"), "alias %q is the task's own name: leave it out", alias)
			default:
				problems.Errorf(t.optionPosition("alias"), "alias %q is a name of %s: leave it out", alias, owner.describe())
			}
		}
	}
	for _, t := range append([]*task{nil}, tasks...) {
		for _, name := range t.generatedNames() {
			if len(tasks) > 0 {
				p.reportTaken(name, name+" is also declared by the generated code", problems)
			}
		}
	}
	for _, name := range usedNames {
		for _, t := range p.taken[name] {
			if t.owner == "" && len(p.lines) > 0 {
				problems.Errorf(p.position(t.pos), "the generated code uses Go's own %s: rename this one", name)
			}
		}
	}
}

// describe names the task's function, for messages.
func (t *task) describe() string {
	if t.receiver != nil {
		return t.receiver.Obj().Name() + "." + t.decl.Name.Name
	}
	return t.decl.Name.Name
}

// namePosition is where the task's wire name was decided.
func (t *task) namePosition() token.Position { return t.optionPosition("name") }

// optionPosition is where the value of an option stands, or the function's name if it is not given.
func (t *task) optionPosition(name string) token.Position {
	if option, ok := t.line.Option(name); ok {
		return option.ValuePos
	}
	return t.pos
}

// many reports whether the task has an EnqueueXMany.
func (t *task) many() bool { return t.args.object != nil && !t.args.batch }
