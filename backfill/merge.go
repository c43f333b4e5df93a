package backfill

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
)

// How many digits PostgreSQL's numeric can have before and after the decimal point.
const (
	maxWhole    = 131_072
	maxFraction = 16_383
)

// checkMerge checks that PostgreSQL can merge an array, which is valid JSON, into the array of a
// waiting job with the same key. PostgreSQL merges them as jsonb, which cannot hold all strings and
// numbers of JSON. If such an array got into the table, every later request with its key would be
// refused.
func checkMerge(array []byte) error {
	const place = "which PostgreSQL cannot merge into the array of a waiting job with the same key"
	for len(array) > 0 {
		n := 1
		switch c := array[0]; {
		case c == '"':
			var odd string
			if n, odd = scanString(array); odd != "" {
				return fmt.Errorf("args contain %s, %s", odd, place)
			}
		case c == '-' || '0' <= c && c <= '9':
			if n = bytes.IndexAny(array, ",]} \t\r\n"); !isNumeric(string(array[:n])) {
				return errors.New("args contain a number of too many digits, " + place)
			}
		}
		array = array[n:]
	}
	return nil
}

// scanString returns the length of the string at the start of a document, and what it contains that
// jsonb cannot hold.
func scanString(document []byte) (length int, odd string) {
	high := false // whether the last unit was the first half of a surrogate pair
	for i := 1; ; {
		unit := rune(' ')
		switch {
		case document[i] == '"' && high:
			return i + 1, "half a surrogate pair"
		case document[i] == '"':
			return i + 1, odd
		case document[i] != '\\':
			i++
		case document[i+1] != 'u':
			i += 2
		default:
			code, _ := strconv.ParseUint(string(document[i+2:i+6]), 16, 16) // valid JSON: it has four hex digits
			unit = rune(code)
			i += 6
		}
		low := utf16.IsSurrogate(unit) && unit >= 0xdc00
		if low != high {
			odd = "half a surrogate pair"
		} else if unit == 0 {
			odd = `\u0000`
		}
		high = utf16.IsSurrogate(unit) && !low
	}
}

// isNumeric reports whether PostgreSQL's numeric can hold a JSON number.
func isNumeric(number string) bool {
	mantissa, exponent := number, 0
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(number[i+1:]); err != nil || exponent >= 1<<30-1 || exponent <= -(1<<30-1) {
			return false // even if the number is zero
		}
		mantissa = number[:i]
	}
	whole, fraction, _ := strings.Cut(strings.TrimPrefix(mantissa, "-"), ".")
	zeros := len(whole+fraction) - len(strings.TrimLeft(whole+fraction, "0"))
	return len(fraction)-exponent <= maxFraction && (zeros == len(whole+fraction) || len(whole)-zeros+exponent <= maxWhole)
}
