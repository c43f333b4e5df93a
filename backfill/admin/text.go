package admin

import (
	"fmt"
	"strconv"
	"strings"
)

func somebody(name string) string {
	if name == "" {
		return "Somebody"
	}
	return name
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + strconv.Quote(reason) + ")"
}

func count(n int64, one, many string) string {
	switch n {
	case 0:
		return "No " + one
	case 1:
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + many
}

// plural writes a number of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func orSomebody(lockedBy string) string {
	if lockedBy == "" {
		return "somebody who has left no name"
	}
	return lockedBy
}

// some names a few of a list.
func some(names []string) string {
	const most = 5
	switch list := quoted(names); {
	case len(list) == 0:
		return "no task"
	case len(list) > most:
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	default:
		return strings.Join(list, ", ")
	}
}

func quoted(names []string) (list []string) {
	for _, name := range names {
		list = append(list, strconv.Quote(name))
	}
	return list
}

// sqlQuote and shellQuote quote a text for a command that can be pasted.
func sqlQuote(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

func shellQuote(text string) string {
	if text != "" && strings.IndexFunc(text, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/", r)
	}) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// head is the beginning of a text that may be long.
func head(text string) string {
	const most = 500
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// upper begins a sentence with a text of ours.
func upper(text string) string { return string(text[0]-'a'+'A') + text[1:] }

// lower puts a text of ours into a sentence.
func lower(text string) string { return string(text[0]-'A'+'a') + text[1:] }
