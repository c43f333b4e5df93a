package generate

import (
	"go/token"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// snakeCase is the wire name of a function. A word begins at a capital behind a small letter or a
// digit, and at the last capital of a run that small letters follow, unless they are the s of a
// plural; and at digits behind a small letter, if the capitals behind them are no beginning of a
// word: SendSMS is send_sms, HTTPPing http_ping, S3Copy s3_copy, SyncUserIDs sync_user_ids,
// Base64Encode base64_encode, Send2FA send_2fa, Resize2XImages resize_2x_images.
func snakeCase(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if beginsWord(runes, i) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func beginsWord(runes []rune, i int) bool {
	r := runes[i]
	switch {
	case i == 0:
		return false
	case unicode.IsDigit(r):
		return unicode.IsLower(runes[i-1]) && beforeAcronym(runes[i:])
	case !unicode.IsUpper(r):
		return false
	case unicode.IsDigit(runes[i-1]):
		start := i - 1
		for start > 0 && unicode.IsDigit(runes[start-1]) {
			start--
		}
		return !beginsWord(runes, start) // else they are one word: 2FA
	}
	return unicode.IsLower(runes[i-1]) || unicode.IsUpper(runes[i-1]) && beforeSmall(runes[i+1:])
}

// beforeAcronym reports whether capitals follow digits that are more than the beginning of a word.
func beforeAcronym(runes []rune) bool {
	i := 0
	for i < len(runes) && unicode.IsDigit(runes[i]) {
		i++
	}
	return i < len(runes) && unicode.IsUpper(runes[i]) && !beforeSmall(runes[i+1:])
}

// beforeSmall reports whether a small letter comes next that is not the s of a plural.
func beforeSmall(runes []rune) bool {
	if len(runes) == 0 || !unicode.IsLower(runes[0]) {
		return false
	}
	return runes[0] != 's' || len(runes) > 1 && unicode.IsLower(runes[1])
}

// nameGo finds what the task is called in generated Go names: the function's name with an
// upper-case first letter.
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

// packageNames are the names that the generated file declares for a package.
func (p *pkg) packageNames() []string {
	client := p.clientName()
	return []string{
		client, p.newClientName(), client + ".WithTx", client + ".WithSQLTx", client + ".Enqueue", client + ".enqueuer",
		p.handlersName(), p.newRegistryName(),
	}
}

// generatedNames are the names that the generated file declares for a task.
func (p *pkg) generatedNames(t *task) []string {
	names := []string{"Task" + t.goName, "Enqueue" + t.goName, p.clientName() + ".Enqueue" + t.goName}
	if t.many() {
		names = append(names, p.clientName()+".Enqueue"+t.goName+"Many")
	}
	if t.result.object != nil {
		names = append(names, "Await"+t.goName, p.clientName()+".Await"+t.goName)
	}
	return names
}

// usedNames are predeclared names that generated code uses.
var usedNames = []string{"bool", "error", "int", "int64", "nil", "string", "uint64"}

// checkNames reports Go names that two tasks claim, or that a task claims and the user has
// declared.
func (p *pkg) checkNames(tasks []*task, problems *diag.List) {
	identifiers := map[string]*task{}
	for _, t := range tasks {
		if first := identifiers[t.goName]; first != nil {
			problems.Errorf(t.pos, "%s and %s would both have Enqueue%s: rename one of the two", first.describe(), t.describe(), t.goName)
		} else {
			identifiers[t.goName] = t
		}
	}
	for _, t := range tasks {
		if short, ok := strings.CutSuffix(t.goName, "Many"); ok && identifiers[short] != nil && identifiers[short].many() {
			problems.Errorf(t.pos, "%s and the Many form of %s would both be Enqueue%s: rename one of the two", t.describe(), identifiers[short].describe(), t.goName)
		}
		for _, name := range p.generatedNames(t) {
			p.reportTaken(name, name+" is also declared by the generated code", renameThis, problems)
			if slices.Contains(p.packageNames(), name) {
				problems.Errorf(t.pos, "task %s and the package would both have %s in the generated code: rename the function, or choose another prefix", t.describe(), name)
			}
		}
	}
	if len(tasks) > 0 {
		p.checkPackageNames(problems)
	}
	for _, name := range usedNames {
		for _, t := range p.taken[name] {
			if t.owner == "" && len(p.lines) > 0 {
				problems.Errorf(p.position(t.pos), "the generated code uses Go's own %s: rename this one", name)
			}
		}
	}
}

// checkPackageNames reports names of the package as a whole that the user has declared.
func (p *pkg) checkPackageNames(problems *diag.List) {
	for _, name := range p.packageNames() {
		remedy := renameThis
		if p.options.prefix == "" && !strings.Contains(name, ".") {
			remedy += ", or write " + directive.Prefix + verbPackage + " prefix=Task above the package clause, for TaskClient, TaskHandlers and NewTaskRegistry"
		}
		p.reportTaken(name, name+" is also declared by the generated code", remedy, problems)
	}
}

const renameThis = "rename this one"

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
	if option, ok := t.line.Option(name); ok && option.Bare {
		return option.Pos
	} else if ok {
		return option.ValuePos
	}
	return t.pos
}

// many reports whether the task has an EnqueueXMany.
func (t *task) many() bool { return t.args.object != nil && !t.args.batch }
