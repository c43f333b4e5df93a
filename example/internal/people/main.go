// Command people writes the CSV file that the example ships: 10,000 people who are made up, at domains that nobody can own.
package main

import (
	"encoding/csv"
	"fmt"
	"log"
	"os"
	"strings"
)

// 25 first names, 26 initials and 16 last names make 10,400 people.
var (
	first = strings.Fields(`Ada Åsa Björn Carlos Chloé Daisuke Edsger Elif Fatima Grace Hedy Ines Jakub João Katherine
		Lars Lucía Margaret Mei Niklaus Olga Omar Robin Vera Zoë`)
	last  = strings.Fields(`Andersson Díaz Dubois Hopper Ito Kaya Khan Kovács Lovelace Müller Novák Okafor Rossi Sato Turing Yılmaz`)
	ascii = strings.NewReplacer("Å", "a", "á", "a", "ã", "a", "é", "e", "ë", "e", "í", "i", "ı", "i", "ö", "o", "ü", "u", " ", ".")
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: people file.csv")
	}
	if err := write(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func write(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	rows := [][]string{{"name", "email"}}
	for i := range 10_000 {
		n := i * 7919 % 10_400 // a prime step visits nobody twice, in an order that looks like none
		name := fmt.Sprintf("%s %c %s", first[n%25], 'A'+n/25%26, last[n/650])
		domain := [...]string{"example.com", "example.org"}[i%2]
		rows = append(rows, []string{name, strings.ToLower(ascii.Replace(name)) + "@" + domain})
	}
	if err := csv.NewWriter(file).WriteAll(rows); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return file.Close()
}
