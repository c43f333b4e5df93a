package generate

import (
	"cmp"
	"go/ast"
	"go/token"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// packageOptions are those of a package line, which is in the doc comment of a package.
type packageOptions struct {
	given    bool
	prefix   string // of Client, Handlers and Registry in generated names
	database string // tasks of two databases have nothing to do with each other
}

// collectPackage reads a package line.
func (p *pkg) collectPackage(comment *ast.Comment, inDoc bool, problems *diag.List) {
	pos := p.position(comment.Pos())
	switch {
	case !inDoc:
		problems.Errorf(pos, "put this line into the package's doc comment, directly above the package clause")
		return
	case p.options.given:
		problems.Errorf(pos, "package %s has two %s%s lines: put all options on one", p.name(), directive.Prefix, verbPackage)
		return
	}
	p.options.given = true
	for _, option := range directive.Parse(comment.Text, pos, problems).Options {
		switch {
		case option.Name != "prefix" && option.Name != "database":
			problems.Errorf(option.Pos, "unknown option %q%s", option.Name,
				cmp.Or(diag.DidYouMean(option.Name, []string{"prefix", "database"}), "; there are database, prefix"))
		case option.Bare:
			problems.Errorf(option.Pos, "option %q has no value: want %s=value", option.Name, option.Name)
		case option.Name == "database":
			p.options.database = option.Value
		case !token.IsIdentifier(option.Value) || !token.IsExported(option.Value):
			problems.Errorf(option.ValuePos, "prefix: %q cannot begin an exported name: write it like Mail, for MailClient", option.Value)
		default:
			p.options.prefix = option.Value
		}
	}
}

// The generated names that are not of a task.

func (p *pkg) clientName() string      { return p.options.prefix + "Client" }
func (p *pkg) newClientName() string   { return "New" + p.options.prefix + "Client" }
func (p *pkg) handlersName() string    { return p.options.prefix + "Handlers" }
func (p *pkg) newRegistryName() string { return "New" + p.options.prefix + "Registry" }
