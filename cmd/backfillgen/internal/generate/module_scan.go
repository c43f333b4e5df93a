package generate

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
	"github.com/backfillhq/go/internal/crontab"
)

// maxFolders bounds the search through a module: 20,000 folders take about 0.2 s. The run over all
// packages, which CI does, has no bound.
const maxFolders = 20_000

// tasksElsewhere finds the tasks of a module whose packages this run does not generate. It looks
// for generated files and reads only the source beside them, as syntax, because each run of go
// generate does this again.
func tasksElsewhere(module, root string, known map[string]bool) (found []*entry) {
	folders := 0
	_ = filepath.WalkDir(root, func(name string, file fs.DirEntry, err error) error {
		switch {
		case err != nil || folders > maxFolders:
			return fs.SkipDir
		case file.IsDir():
			folders++
			if name != root && isIgnoredFolder(name) {
				return fs.SkipDir
			}
		case file.Name() == FileName && !known[filepath.Dir(name)]:
			relative, err := filepath.Rel(root, filepath.Dir(name))
			if err == nil && isGenerated(name) {
				found = append(found, tasksOfFolder(filepath.Dir(name), path.Join(module, filepath.ToSlash(relative)))...)
			}
		}
		return nil
	})
	return found
}

// tasksOfFolder reads the task lines of a package as far as syntax goes. What is wrong with them is
// reported when that package is generated.
func tasksOfFolder(dir, importPath string) (found []*entry) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil
	}
	database := ""
	for _, name := range paths {
		content, err := os.ReadFile(name)
		if err != nil || isTest(name) || isPassedOver(name) || !bytes.Contains(content, []byte(directive.Prefix)) {
			continue
		}
		file, _ := parser.ParseFile(token.NewFileSet(), name, content, parser.ParseComments|parser.SkipObjectResolution)
		if file == nil {
			continue
		}
		if line, ok := lineOf(file.Doc, verbPackage); ok {
			option, _ := line.Option("database")
			database = option.Value
		}
		for _, decl := range file.Decls {
			if function, ok := decl.(*ast.FuncDecl); ok {
				if line, ok := lineOf(function.Doc, verbTask); ok {
					found = append(found, sketch(function, line))
				}
			}
		}
	}
	for _, e := range found {
		e.path, e.database = importPath, database
	}
	return found
}

// lineOf returns the directive of a doc comment with this verb.
func lineOf(doc *ast.CommentGroup, verb string) (line directive.Line, ok bool) {
	if doc == nil {
		return line, false
	}
	for _, comment := range doc.List {
		if found, _ := directive.Verb(comment.Text); directive.Is(comment.Text) && found == verb {
			return directive.Parse(comment.Text, token.Position{}, new(diag.List)), true
		}
	}
	return line, false
}

// sketch is what a function's directives say that it claims.
func sketch(function *ast.FuncDecl, line directive.Line) *entry {
	e := &entry{task: function.Name.Name, elsewhere: true, name: claim{text: snakeCase(function.Name.Name)}}
	if receiver := receiverName(function); receiver != "" {
		e.task = receiver + "." + e.task
	}
	if option, ok := line.Option("name"); ok {
		e.name.text = option.Value
	}
	if option, ok := line.Option("alias"); ok {
		for alias := range strings.SplitSeq(option.Value, ",") {
			e.aliases = append(e.aliases, claim{text: alias})
		}
	}
	if option, ok := line.Option("key"); ok {
		e.keys = append(e.keys, keyClaim{claim: claim{text: option.Value}, form: formOf(option.Value)})
	}
	for _, comment := range function.Doc.List {
		verb, text := directive.Verb(comment.Text)
		if !directive.Is(comment.Text) || verb != verbCron {
			continue
		}
		schedule, problems := crontab.ParseSchedule(text, e.name.text, crontab.Position{Line: 1, Column: 1})
		if len(problems) > 0 {
			continue
		}
		e.crons = append(e.crons, claim{text: schedule.Identifier})
		if schedule.Key != "" {
			e.keys = append(e.keys, keyClaim{claim: claim{text: schedule.Key}, form: schedule.Key})
		}
	}
	return e
}

// formOf is the text of a template with {} for each field.
func formOf(text string) string {
	var b strings.Builder
	for text != "" {
		open := strings.IndexAny(text, "{}")
		if open < 0 {
			break
		}
		b.WriteString(text[:open])
		text = text[open:]
		if len(text) > 1 && text[1] == text[0] {
			b.WriteByte(text[0])
			text = text[2:]
			continue
		}
		b.WriteString("{}")
		_, text, _ = strings.Cut(text, "}")
	}
	return b.String() + text
}
