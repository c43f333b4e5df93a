package generate

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/types"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/backfillhq/go/cmd/backfillgen/internal/diag"
	"github.com/backfillhq/go/cmd/backfillgen/internal/directive"
)

// The limits of the wire, in characters.
const (
	maxNameLength = 128 // of a task, and of a queue
	maxKeyLength  = 512
)

// options are the options of a task line. Each reads its value into the task, or says what is
// wrong with it; nil and "" mean that what is wrong was reported.
var options = map[string]func(p *pkg, t *task, o directive.Option, problems *diag.List) error{
	"name": func(_ *pkg, t *task, o directive.Option, _ *diag.List) error {
		t.name = o.Value
		return checkConstant(o.Value, maxNameLength)
	},
	"queue": func(p *pkg, t *task, o directive.Option, problems *diag.List) (err error) {
		t.queue, err = p.readText(t, o, maxNameLength, problems)
		return err
	},
	"key": func(p *pkg, t *task, o directive.Option, problems *diag.List) (err error) {
		t.key, err = p.readText(t, o, maxKeyLength, problems)
		return err
	},
	"key_mode": func(_ *pkg, t *task, o directive.Option, _ *diag.List) error {
		modes := map[string]string{"replace": "Replace", "preserve_run_at": "PreserveRunAt", "unsafe_dedupe": "UnsafeDedupe"}
		if t.keyMode = modes[o.Value]; t.keyMode == "" {
			return fmt.Errorf("unknown key mode %q%s", o.Value, cmp.Or(diag.DidYouMean(o.Value, slices.Sorted(maps.Keys(modes))), ": want replace, preserve_run_at or unsafe_dedupe"))
		}
		return nil
	},
	"priority": func(_ *pkg, t *task, o directive.Option, _ *diag.List) (err error) {
		t.priority, err = readInteger(o.Value, math.MinInt16, math.MaxInt16)
		return err
	},
	"max_attempts": func(_ *pkg, t *task, o directive.Option, _ *diag.List) (err error) {
		t.maxAttempts, err = readInteger(o.Value, 1, math.MaxInt16)
		return err
	},
	"delay": func(_ *pkg, t *task, o directive.Option, _ *diag.List) (err error) {
		t.delay, err = readDuration(o.Value)
		return err
	},
	"timeout": func(_ *pkg, t *task, o directive.Option, _ *diag.List) (err error) {
		t.timeout, err = readDuration(o.Value)
		return err
	},
	"history": func(_ *pkg, t *task, o directive.Option, _ *diag.List) (err error) {
		t.history, err = readDays(o.Value)
		return err
	},
	"tx": func(_ *pkg, t *task, o directive.Option, _ *diag.List) error {
		levels := map[string]string{"read_committed": "ReadCommitted", "repeatable_read": "RepeatableRead", "serializable": "Serializable"}
		if t.isolation = levels[o.Value]; t.isolation == "" {
			return fmt.Errorf("unknown isolation level %q%s", o.Value, cmp.Or(diag.DidYouMean(o.Value, slices.Sorted(maps.Keys(levels))), ": want read_committed, repeatable_read or serializable"))
		}
		return nil
	},
	"backoff": func(p *pkg, t *task, o directive.Option, problems *diag.List) (err error) {
		t.backoff, err = p.readBackoff(t, o, problems)
		return err
	},
	"flags": func(_ *pkg, t *task, o directive.Option, _ *diag.List) (err error) {
		t.flags, err = readList(o.Value, math.MaxInt)
		return err
	},
	"alias": func(_ *pkg, t *task, o directive.Option, _ *diag.List) (err error) {
		t.aliases, err = readList(o.Value, maxNameLength)
		return err
	},
}

// readOptions reads the options of a task line. The name comes first, since others refer to it.
func (p *pkg) readOptions(t *task, problems *diag.List) {
	ordered := slices.Clone(t.line.Options)
	slices.SortStableFunc(ordered, func(a, b directive.Option) int {
		return strings.Compare(strconv.FormatBool(b.Name == "name"), strconv.FormatBool(a.Name == "name"))
	})
	for _, option := range ordered {
		read, word := options[option.Name], words[option.Name]
		switch {
		case word != nil && option.Bare:
			word(t)
		case word != nil:
			problems.Errorf(option.Pos, "option %q is a word without a value: write %s", option.Name, option.Name)
		case read == nil:
			problems.Errorf(option.Pos, "unknown option %q%s", option.Name, meant(option.Name))
		case option.Bare:
			problems.Errorf(option.Pos, "option %q has no value: want %s=value", option.Name, option.Name)
		default:
			if err := read(p, t, option, problems); err != nil {
				problems.Errorf(option.ValuePos, "%s: %v", option.Name, err)
			}
		}
	}
	mode, moded := t.line.Option("key_mode")
	if _, keyed := t.line.Option("key"); moded && !keyed {
		problems.Errorf(mode.Pos, "key_mode without a key has no meaning: add key=")
	}
	if _, named := t.line.Option("name"); !named {
		if err := checkConstant(t.name, maxNameLength); err != nil {
			problems.Errorf(t.pos, "task name %q, from the function's: %v: give it another with name=", t.name, err)
		}
	}
	t.checkTransaction(problems)
	t.checkResult(problems)
	p.checkConstants(t, problems)
}

// readText reads the template of a queue or a key.
func (p *pkg) readText(t *task, option directive.Option, limit int, problems *diag.List) (*template, error) {
	parsed := p.readTemplate(t, option, problems)
	if parsed == nil {
		return nil, nil
	}
	err := checkWritten(option.Value)
	if text, constant := parsed.constant(); err == nil && (constant || text != "") {
		err = checkLength(text, limit)
	}
	if err != nil {
		return nil, err
	}
	return parsed, nil
}

func checkLength(text string, limit int) error {
	switch n := utf8.RuneCountInString(text); {
	case n == 0:
		return fmt.Errorf("is empty: want 1 to %d characters", limit)
	case n > limit:
		return fmt.Errorf("has %d characters: at most %d are allowed", n, limit)
	}
	return nil
}

// checkConstant says what is wrong with a text that is stored as it is.
func checkConstant(text string, limit int) error {
	if strings.ContainsAny(text, "{}") {
		return fmt.Errorf("%q: only queue= and key= have fields in braces, so these would be part of the text: leave them out", text)
	}
	return cmp.Or(checkLength(text, limit), checkWritten(text))
}

// checkWritten says what of a text can hardly be meant: it would be stored, and nobody sees it.
func checkWritten(text string) error {
	hidden := strings.IndexFunc(text, func(r rune) bool {
		return unicode.In(r, unicode.Cc, unicode.Cf) && !unicode.Is(unicode.Join_Control, r)
	})
	switch trimmed := strings.TrimFunc(text, unicode.IsSpace); {
	case !utf8.ValidString(text):
		return fmt.Errorf("%q is not valid UTF-8", text)
	case hidden >= 0:
		r, _ := utf8.DecodeRuneInString(text[hidden:])
		return fmt.Errorf("%q contains the character %U, which nobody sees: leave it out", text, r)
	case trimmed != text:
		return fmt.Errorf("%q begins or ends with a space: leave it out", text)
	case len(text) > 1 && strings.IndexByte("'\"`", text[0]) >= 0 && text[0] == text[len(text)-1]:
		return fmt.Errorf("%q would have the quotes in it, too: leave them out", text)
	}
	return nil
}

func readInteger(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a number from %d to %d", text, least, most)
	}
	return n, nil
}

func readDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration above 0: write it like 1.5s, 10m or 36h", text)
	}
	return d, nil
}

// The bounds of a history are those of the runtime.
const (
	day                    = 24 * time.Hour
	minHistory, maxHistory = time.Hour, 400 * day
)

// readDays reads a duration that may be given in days.
func readDays(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, whole := strings.CutSuffix(text, "d"); whole {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(n, 1000)) * day
	}
	if err != nil || d < minHistory || d > maxHistory {
		return 0, fmt.Errorf("%q is not a time from 1h to 400d: write it like 12h or 7d", text)
	}
	return d, nil
}

// readList reads a,b,c.
func readList(text string, limit int) ([]string, error) {
	items := strings.Split(text, ",")
	for i, item := range items {
		if item == "" {
			return nil, fmt.Errorf("%q has an empty element: write a,b", text)
		}
		if strings.ContainsAny(item, " \t;|[]()") {
			return nil, fmt.Errorf("%q: commas alone separate elements, and no brackets are around them: write a,b", text)
		}
		if err := checkLength(item, limit); err != nil {
			return nil, fmt.Errorf("%q %w", item, err)
		}
		if err := checkConstant(item, limit); err != nil {
			return nil, err
		}
		if slices.Contains(items[:i], item) {
			return nil, fmt.Errorf("%q is there twice", item)
		}
	}
	return items, nil
}

// backoff is what a task says about its retries. The zero backoff says nothing.
type backoff struct {
	preset      string        // the name of a function of package backfill without parameters
	base, limit time.Duration // of exp; base alone: fixed
	factor      float64
	function    string // of the user's package
}

var presets = map[string]string{
	"graphile": "GraphileBackoff", "fast": "FastBackoff", "aggressive": "AggressiveBackoff", "conservative": "ConservativeBackoff",
}

const defaultFactor = 2

// readBackoff reads graphile, fast, aggressive, conservative, exp(base,max[,factor]), fixed(d), or
// the name of a function.
func (p *pkg) readBackoff(t *task, option directive.Option, problems *diag.List) (backoff, error) {
	if preset := presets[option.Value]; preset != "" {
		if d := p.declared[option.Value]; d != nil && isFunction(d) {
			problems.Errorf(p.position(d.pos), "%s is also a preset of backoff=, which task %s uses: rename this one, so that nobody takes one for the other",
				option.Value, t.describe())
		}
		return backoff{preset: preset}, nil
	}
	call, list, isCall := strings.Cut(option.Value, "(")
	if !isCall {
		return backoff{function: option.Value}, p.checkBackoffFunction(option, problems)
	}
	list, closed := strings.CutSuffix(list, ")")
	arguments := strings.Split(list, ",")
	for i := range arguments {
		arguments[i] = strings.TrimSpace(arguments[i])
	}
	switch {
	case call == "fixed" && closed && len(arguments) == 1:
		d, err := readDuration(arguments[0])
		return backoff{base: d}, err
	case call == "exp" && closed && (len(arguments) == 2 || len(arguments) == 3):
		return readExponential(arguments)
	}
	return backoff{}, fmt.Errorf("cannot read %q: want exp(base,max), exp(base,max,factor) or fixed(duration)%s", option.Value, diag.DidYouMean(call, []string{"exp", "fixed"}))
}

func readExponential(arguments []string) (b backoff, err error) {
	if b.base, err = readDuration(arguments[0]); err != nil {
		return b, err
	}
	if b.limit, err = readDuration(arguments[1]); err != nil {
		return b, err
	}
	if b.limit < b.base {
		return b, fmt.Errorf("the maximum %v is below the base %v", b.limit, b.base)
	}
	b.factor = defaultFactor
	if len(arguments) == 3 {
		if b.factor, err = strconv.ParseFloat(arguments[2], 64); err != nil || !(b.factor >= 1) || math.IsInf(b.factor, 0) {
			return b, fmt.Errorf("the factor %q is not a number from 1 up", arguments[2])
		}
	}
	return b, nil
}

const backoffShape = "func(attempt int, err error) time.Duration"

func (p *pkg) checkBackoffFunction(option directive.Option, problems *diag.List) error {
	object := p.types.Scope().Lookup(option.Value)
	function, ok := object.(*types.Func)
	if !ok {
		known := append(slices.Sorted(maps.Keys(presets)), "exp", "fixed")
		for name, d := range p.declared {
			if isFunction(d) {
				known = append(known, name)
			}
		}
		slices.Sort(known)
		return fmt.Errorf("%q is neither a preset (graphile, fast, aggressive, conservative), exp(base,max), fixed(duration), nor a function of this package%s",
			option.Value, diag.DidYouMean(option.Value, known))
	}
	signature := function.Signature()
	parameters, results := signature.Params(), signature.Results()
	if signature.TypeParams() != nil || signature.Variadic() || parameters.Len() != 2 || results.Len() != 1 ||
		!types.Identical(parameters.At(0).Type(), types.Typ[types.Int]) ||
		!types.Identical(parameters.At(1).Type(), types.Universe.Lookup("error").Type()) ||
		types.TypeString(types.Unalias(results.At(0).Type()), nil) != "time.Duration" {
		problems.Errorf(p.position(function.Pos()), "backoff function %s: want %s, have %s", option.Value, backoffShape, types.TypeString(signature, p.qualifier))
	}
	return nil
}

func isFunction(d *declaration) bool {
	function, ok := d.decl.(*ast.FuncDecl)
	return ok && function.Recv == nil
}
