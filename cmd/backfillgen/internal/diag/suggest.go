package diag

import "strings"

// DidYouMean returns "; did you mean X?" for the candidate that is most like what was written, or
// nothing if none is.
func DidYouMean(written string, candidates []string) string {
	if best := Nearest(written, candidates); best != "" {
		return "; did you mean " + best + "?"
	}
	return ""
}

// Nearest returns the candidate that is most like what was written, or "" if none is.
func Nearest(written string, candidates []string) string {
	best, bestDistance := "", max(1, len(written)/3)+1
	for _, candidate := range candidates {
		if distance := Distance(fold(written), fold(candidate)); distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// fold makes the spellings of one word equal: maxAttempts, max-attempts and max_attempts.
func fold(name string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(name))
}

// Distance counts the insertions, deletions, replacements and swaps of neighbours that make b of a.
func Distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
