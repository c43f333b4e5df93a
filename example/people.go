package main

import (
	"bufio"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

//go:generate go run ./internal/people people.csv

// peopleCSV ships with the example, and can be imported wherever that is run.
//
//go:embed people.csv
var peopleCSV string

// subscriber is somebody who signs up, or whom a file names.
type subscriber struct{ Name, Email string }

// inputError is what is wrong with what somebody typed, in words for them, by the field; "":
// nothing.
type inputError struct{ Name, Email string }

func (e inputError) Error() string {
	return strings.Join(slices.DeleteFunc([]string{e.Name, e.Email}, func(s string) bool { return s == "" }), "; ")
}

// newSubscriber tidies and checks what people type. Its error names all that is wrong.
func newSubscriber(name, email string) (subscriber, error) {
	s := subscriber{strings.TrimSpace(name), strings.ToLower(strings.TrimSpace(email))}
	var problem inputError
	switch {
	case s.Name == "":
		problem.Name = "Name is missing"
	case len(s.Name) > 200 || !utf8.ValidString(s.Name) || strings.ContainsFunc(s.Name, unicode.IsControl):
		problem.Name = fmt.Sprintf("%.50q is not a name", s.Name)
	}
	address, err := mail.ParseAddress(s.Email)
	switch {
	case s.Email == "":
		problem.Email = "Email address is missing"
	case err != nil || address.Address != s.Email || len(s.Email) > 254:
		problem.Email = fmt.Sprintf("%.50q is not an email address such as ada@example.com", s.Email)
	}
	if problem != (inputError{}) {
		return s, problem
	}
	return s, nil
}

// readPeople reads a CSV file. Its error names all rows that are wrong.
func readPeople(path string) (people []subscriber, err error) {
	var file io.ReadCloser
	file, err = os.Open(path)
	if errors.Is(err, os.ErrNotExist) && path == "people.csv" {
		file, err = io.NopCloser(strings.NewReader(peopleCSV)), nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rows := csv.NewReader(withoutBOM(file))
	if err := readHeader(rows); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var problems []string
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if malformed, ok := errors.AsType[*csv.ParseError](err); ok {
			problems = append(problems, fmt.Sprintf("line %d: %v", malformed.StartLine, malformed.Err))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		person, err := newSubscriber(row[0], row[1])
		if err != nil {
			line, _ := rows.FieldPos(0)
			problems = append(problems, fmt.Sprintf("line %d: %v", line, err))
		}
		people = append(people, person)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("%s: nothing was imported, because of\n  %s", path, strings.Join(problems, "\n  "))
	}
	return people, nil
}

// withoutBOM leaves out the byte order mark with which Excel begins a file in UTF-8.
func withoutBOM(file io.Reader) io.Reader {
	const mark = "\ufeff"
	text := bufio.NewReader(file)
	if start, _ := text.Peek(len(mark)); string(start) == mark {
		_, _ = text.Discard(len(mark)) // it was read
	}
	return text
}

func readHeader(rows *csv.Reader) error {
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return errors.New("it is empty: line 1 has to be the header name,email")
	}
	if malformed, ok := errors.AsType[*csv.ParseError](err); ok {
		return fmt.Errorf("line 1 is not the header name,email: %w", malformed.Err)
	}
	if err != nil {
		return fmt.Errorf("read line 1: %w", err)
	}
	if found := strings.Join(header, ","); found != "name,email" {
		return fmt.Errorf("line 1 is not the header name,email, but %.50q", found)
	}
	return nil
}
