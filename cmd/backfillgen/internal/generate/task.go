package generate

import (
	"cmp"
	"go/ast"
	"go/token"
	"go/types"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// task is a function with a task line, as far as it makes sense.
type task struct {
	line taskLine
	decl *ast.FuncDecl
	pos  token.Position // of the function's name

	name     string // on the wire
	goName   string // as in EnqueueSendEmail
	receiver *types.Named
	pointer  bool // the receiver is a pointer
	args     args
	result   result

	queue, key  *template
	keyMode     string // the name of a constant of package backfill
	priority    int
	maxAttempts int
	delay       time.Duration
	timeout     time.Duration
	history     time.Duration
	isolation   string // likewise
	flags       []string
	aliases     []string
	backoff     backoff

	unsigned  bool // its signature is wrong, and reported
	ticks     []tick
	serial    bool // that the jobs of its constant queue run one at a time is meant
	singleton bool // that its jobs have one key, whatever their args are, is meant
}

// args is the type of what a task is given.
type args struct {
	object *types.TypeName // nil: the task has no args
	batch  bool            // a slice of it

	endless bool // the type has no end, which is reported; nobody may look for fields in it
}

// result is the type of what a task returns beside its error.
type result struct {
	object  *types.TypeName // nil: it returns no result
	pointer bool            // to it
}

// taskLine is a task line, the function that it stands above, and the cron lines of that.
type taskLine struct {
	directive.Line
	function *ast.FuncDecl
	cron     []cronLine

	written     *ast.FuncType // what the function's type was before takeTransaction
	transaction string        // pgxTx or sqlTx; empty: the task is not transactional
}

// collect finds the task lines of a package, reports directives that are none, and marks what the
// tasks need.
func (p *pkg) collect(problems *diag.List) {
	for _, file := range p.files {
		above := map[*ast.Comment]*ast.FuncDecl{}
		for _, declaration := range file.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && function.Doc != nil {
				for _, comment := range function.Doc.List {
					above[comment] = function
				}
			}
		}
		for _, group := range file.Comments {
			for i, comment := range group.List {
				switch verb, _ := directive.Verb(comment.Text); {
				case i > 0 && directive.Is(group.List[i-1].Text) && continued.MatchString(comment.Text):
					problems.Errorf(p.position(comment.Pos()), "a directive ends with its line: put these options behind those of the line above")
				case !directive.Is(comment.Text):
				case verb == verbPackage:
					p.collectPackage(comment, group == file.Doc, problems)
				case !p.broken || above[comment] != nil:
					p.collectLine(comment, above[comment], problems)
				}
			}
		}
	}
	for i := range p.lines {
		p.takeTransaction(&p.lines[i])
	}
	for _, line := range p.lines {
		p.need(declaredName(line.function))
		if backoff, ok := line.Option("backoff"); ok {
			p.need(backoff.Value)
		}
	}
}

// declaredName is the name of a function in pkg.declared.
func declaredName(function *ast.FuncDecl) string {
	if receiver := receiverName(function); receiver != "" {
		return receiver + "." + function.Name.Name
	}
	return function.Name.Name
}

// continued matches a comment that begins with an option, as if it went on with the line above.
var continued = regexp.MustCompile(`^//[/\s?]*\w+=\S`)

// collectLine notes a directive above a function. All of a function's lines come before those of
// the next.
func (p *pkg) collectLine(comment *ast.Comment, function *ast.FuncDecl, problems *diag.List) {
	pos := p.position(comment.Pos())
	verb, rest := directive.Verb(comment.Text)
	if !reportVerb(verb, pos, function, problems) {
		return
	}
	last := len(p.lines) - 1
	if last < 0 || p.lines[last].function != function {
		p.lines = append(p.lines, taskLine{function: function})
		last++
	}
	line := &p.lines[last]
	switch {
	case verb == verbCron:
		pos.Column += len(comment.Text) - len(rest)
		line.cron = append(line.cron, cronLine{rest, pos})
	case line.Verb != "":
		problems.Errorf(pos, "function %s has two task lines: put all options on one", function.Name.Name)
	default:
		line.Line = directive.Parse(comment.Text, pos, problems)
	}
}

// tasks returns the tasks of a package in the order of their names, and reports everything that is
// wrong with them.
func (p *pkg) tasks(problems *diag.List) []*task {
	p.check()
	var tasks []*task
	for _, line := range p.lines {
		if line.Verb == "" {
			problems.Errorf(line.cron[0].pos, "function %s has a cron line and no task line: add %s%s", line.function.Name.Name, directive.Prefix, verbTask)
			continue
		}
		if t := p.task(line, problems); t != nil {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(a, b *task) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.pos.Filename, b.pos.Filename), cmp.Compare(a.pos.Offset, b.pos.Offset))
	})
	p.checkNames(tasks, problems)
	p.checkCycles(problems)
	return tasks
}

// task reads one task. It is nil if the function cannot be a task at all.
func (p *pkg) task(line taskLine, problems *diag.List) *task {
	t := &task{line: line, decl: line.function, pos: p.position(line.function.Name.Pos()), name: snakeCase(line.function.Name.Name)}
	named := t.nameGo(problems)
	t.unsigned = !p.readSignature(t, problems)
	p.readOptions(t, problems)
	if !named || t.unsigned {
		return nil
	}
	p.readCron(t, problems)
	p.reportWaiting(t, problems)
	return t
}

// The verbs of directives.
const (
	verbTask    = "task"
	verbCron    = "cron"
	verbPackage = "package"
)

var verbs = []string{verbTask, verbCron, verbPackage}

// laterVerbs are verbs that are decided and not built yet: a message that says so is better than
// one that says they are unknown.
var laterVerbs = []string{"client", "emit", "upcast"}

// reportVerb reports a directive that is no line above a function.
func reportVerb(verb string, pos token.Position, function *ast.FuncDecl, problems *diag.List) bool {
	switch {
	case slices.Contains(laterVerbs, verb):
		problems.Errorf(pos, "%s%s is not supported by this version of backfillgen", directive.Prefix, verb)
	case verb == "":
		problems.Errorf(pos, "no word follows the colon: write %s%s, without a space in it", directive.Prefix, verbTask)
	case verb != verbTask && verb != verbCron:
		pos.Column += len(directive.Prefix)
		want := ": want " + directive.Prefix + strings.Join(verbs, " or "+directive.Prefix)
		problems.Errorf(pos, "unknown directive %q%s", verb, cmp.Or(diag.DidYouMean(verb, verbs), want))
	case function == nil:
		problems.Errorf(pos, "this line stands above no function: put it into the doc comment of a function or method, without an empty line between")
	default:
		return true
	}
	return false
}
