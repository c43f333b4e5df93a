package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var (
	randomStructs = flag.Int("random.structs", 20, "how many random structs TestRandomPayloads tries")
	randomSeed    = flag.Uint64("random.seed", 1, "the seed of the first of them")
)

// Types of the fields of random structs. # is the number of the struct, whose own types are in
// testdata/random/types.go.txt.
var (
	mildTypes = []string{
		"bool", "int", "int8", "int32", "int64", "uint8", "uint32", "uint64", "uintptr", "float32", "float64", "string", "[]byte", "[3]byte", "[]string",
		"[][]int", "[2]string", "map[string]int", "map[int8]string", "map[uint64][]bool", "*int", "**string", "*[]int", "any", "[]any", "map[string]any",
		"time.Time", "*time.Time", "[]time.Time", "time.Duration", "json.RawMessage", "json.Number", "netip.Addr", "netip.Prefix", "map[netip.Addr]int",
		"net.IP", "net.IPNet", "http.Header", "mail.Address", "big.Int", "*big.Int", "big.Rat", "sql.NullString", "sql.Null[time.Time]", "slog.Level",
		"struct{ A int; B []string }", "[]struct{ X, Y float64 }", "map[string]struct{ V *int }", "[0]int", "struct{}",
		"Text#", "*Text#", "map[Text#]Text#", "map[string]*Pointer#", "Pointer#", "[]Pointer#", "Object#", "Level#", "map[Level#]int", "Alias#",
		"String#", "map[String#]String#", "Number#", "map[Number#]int", "[]Byte#", "[2]Byte#", "Generic#[int]", "Generic#[*Tree#]", "Generic#[Generic#[string]]",
		"Tree#", "*Tree#", "Base#", "map[string]Base#", "OnlyTime#",
	}
	hostileTypes = []string{
		"url.URL", "sync.Mutex", "chan int", "func()", "error", "complex64", "slog.Record", "*slog.Record", "unsafe.Pointer", "map[bool]int", "map[float64]int",
		"map[any]int", "map[*Text#]int", "map[Key#]int", "map[string]Pointer#", "map[string][1]big.Int", "map[string]big.Int", "interface{ String() string }",
		"struct{ A int; b string }", "Copy#", "[]Copy#", "Shape#", "Case#", "Half#", "Forms#", "[]Forms#", "struct{ time.Time }", "[]struct{ Text# }", "Partly#", "*Partly#", "Other#", "Loop#", "Both#", "Stamp#", "[]Stamp#",
		"NilTime#", "Generic#[Partly#]", "map[Case#]int", "map[Copy#]int", "Generic#[Generic#[*Loop#]]", "[]any",
	}
	embeddings = []string{
		"Base#", "*Base#", "base#", "*base#", "Other#", "Loop#", "*Loop#", "time.Time", "*time.Time", "Text#", "*Text#", "Pointer#", "Both#", "Number#", "number#",
		"*Number#", "Generic#[int]", "Tree#", "empty#", "Partly#", "Alias#", "sync.Mutex", "sql.NullString", "Stamp#", "Object#", "big.Int", "json.RawMessage",
	}
	randomTags = []string{
		`json:"x%d"`, `json:"y%d,omitempty"`, `json:",omitempty"`, `json:",omitzero"`, `json:"z%d,omitzero" yaml:"z"`, `bson:"q"`, `json:",string"`, `json:"ID"`, `json:"id"`,
		`json:"Name"`, `json:"-"`, `json:"-,"`, `json:"ä ö%d"`, `json:"it's"`, `jsom:"q%d"`, `json:"w%d, omitempty"`, `json:"v%d,string,omitempty"`, `json:"-,omitempty"`,
		`json: "u%d"`, `json:"t%d" json:"s"`,
	}
	fieldNames = []string{"ID", "Id", "Name", "Code", "N", "Note", "Round", "Value", "Time", "A", "B", "C", "D", "E", "F", "secret", "_"}
)

// Random structs are refused, or stored and read again as they were by the worker's way; the
// generated code compiles. What is refused for no reason is not seen here: see payloads.txtar.
func TestRandomPayloads(t *testing.T) {
	t.Parallel()
	const atOnce = 200
	for first := 0; first < *randomStructs; first += atOnce {
		tryRandom(t, *randomSeed+uint64(first), min(atOnce, *randomStructs-first))
	}
}

func tryRandom(t *testing.T, seed uint64, count int) {
	t.Helper()
	dir := t.TempDir()
	types := string(readFile(t, "testdata/random/types.go.txt"))
	var files []txtar.File
	for i := range count {
		content := strings.ReplaceAll(types+randomStruct(seed+uint64(i)), "#", fmt.Sprint(i))
		files = append(files, txtar.File{Name: fmt.Sprintf("p%d.go", i), Data: goFile(content)})
	}
	write(t, dir, files)
	refused := refusedFiles(t, dir, `^p(\d+)\.go:`)
	for i := range refused {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("p%s.go", i))); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d: %d of %d structs are refused", seed, len(refused), count)
	if len(refused) == 0 || len(refused) == count {
		t.Fatalf("of %d structs, %d are refused: the test shows nothing", count, len(refused))
	}
	backfillgen(t, 0, "-C", dir)
	test := string(readFile(t, "testdata/random/roundtrip_test.go.txt")) + "\nfunc TestRoundTrip(t *testing.T) {\n"
	for i := range count {
		if !refused[fmt.Sprint(i)] {
			test += fmt.Sprintf("\tcheck(t, TaskP%d)\n", i)
		}
	}
	writeFile(t, filepath.Join(dir, "roundtrip_test.go"), []byte(test+"}\n"))
	goCommand(t, dir, "test", "-vet=off", ".")
}

// randomStruct declares a struct and a task. One in three is made to be refused, most likely.
func randomStruct(seed uint64) string {
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	hostile := random.IntN(3) == 0
	seen := map[string]bool{}
	fields := ""
	if random.IntN(3) == 0 {
		for range 1 + random.IntN(2) {
			typ := pick(embeddings)
			name := strings.TrimLeft(typ[strings.LastIndex(typ, ".")+1:], "*")
			if name, _, _ = strings.Cut(name, "["); !seen[name] {
				seen[name] = true
				fields += "\t" + typ + randomTag(random, 4) + "\n"
			}
		}
	}
	for range 1 + random.IntN(6) {
		name, typ, oneIn := pick(fieldNames[:15]), pick(mildTypes), 12
		if hostile {
			name, oneIn = pick(fieldNames), 2
			if random.IntN(4) == 0 {
				typ = pick(hostileTypes)
			}
		}
		if !seen[name] || name == "_" {
			seen[name] = true
			fields += "\t" + name + " " + typ + randomTag(random, oneIn) + "\n"
		}
	}
	options, transaction := "", ""
	if random.IntN(2) == 0 { // which changes nothing about args
		options, transaction = " timeout=1m", "tx *sql.Tx, "
	}
	return "\ntype Args# struct {\n" + fields + "}\n\n//backfill:task" + options + "\nfunc P#(ctx context.Context, " + transaction + "args Args#) error { return nil }\n"
}

// randomTag is a tag, one time in so many; the first ones are harmless, and more likely.
func randomTag(random *rand.Rand, oneIn int) string {
	if random.IntN(oneIn) > 0 {
		return ""
	}
	tag := randomTags[random.IntN(1+random.IntN(len(randomTags)))]
	if strings.Contains(tag, "%") {
		tag = fmt.Sprintf(tag, random.IntN(1000))
	}
	return " `" + tag + "`"
}

// imports are the packages of a file by the names that it may use.
var imports = map[string]string{
	"big": "math/big", "context": "context", "hex": "encoding/hex", "http": "net/http", "json": "encoding/json", "mail": "net/mail", "net": "net", "netip": "net/netip",
	"slog": "log/slog", "sql": "database/sql", "strconv": "strconv", "strings": "strings", "sync": "sync", "time": "time", "unsafe": "unsafe", "url": "net/url",
}

// goFile puts declarations into a file, with the imports that they need.
func goFile(content string) []byte {
	var b bytes.Buffer
	b.WriteString("package payloads\n\nimport (\n")
	for _, name := range slices.Sorted(maps.Keys(imports)) {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(content) {
			fmt.Fprintf(&b, "\t%q\n", imports[name])
		}
	}
	b.WriteString(")\n\n" + content)
	return b.Bytes()
}

// refusedFiles runs backfillgen, and returns what pattern finds in its errors, all of which it has
// to match.
func refusedFiles(t *testing.T, dir, pattern string) map[string]bool {
	t.Helper()
	var stdout, stderr bytes.Buffer
	run(t.Context(), []string{"-C", dir}, &stdout, &stderr)
	refused := map[string]bool{}
	expression := regexp.MustCompile(pattern)
	for line := range strings.Lines(stderr.String()) {
		found := expression.FindStringSubmatch(line)
		switch {
		case strings.Contains(line, ": warning: ") && !strings.HasSuffix(line, "which are not stored\n") || strings.HasSuffix(line, " nothing was written\n"):
		case found == nil || strings.Contains(line, "cannot find out"):
			t.Errorf("backfillgen says: %s", line)
		default:
			refused[found[1]] = true
		}
	}
	return refused
}

func goCommand(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go %s: %v\n%s", args[0], err, out)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
