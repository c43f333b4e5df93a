package generate

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// parts of templates, with the values that each can take.
var keyParts = []struct {
	symbols skeleton
	values  []string
}{
	{constantSkeleton("a"), []string{"a"}},
	{constantSkeleton("1"), []string{"1"}},
	{constantSkeleton(":"), []string{":"}},
	{constantSkeleton("true"), []string{"true"}},
	{textSymbols, []string{"", "a", "a:", "1", "-1", "true", ":1"}},
	{signedSymbols, []string{"0", "1", "-1", "11"}},
	{unsignedSymbols, []string{"0", "1", "11"}},
	{boolSymbols, []string{"true", "false"}},
}

// Whenever two templates give one text, their skeletons say that they can: no shared key is missed.
func TestSkeletonFindsEqualKeys(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 20_000 {
		texts, skeletons := [2]string{}, [2]skeleton{}
		for i := range texts {
			for range 1 + random.IntN(4) {
				part := keyParts[random.IntN(len(keyParts))]
				texts[i] += part.values[random.IntN(len(part.values))]
				skeletons[i] = append(skeletons[i], part.symbols...)
			}
		}
		if texts[0] != texts[1] {
			continue
		}
		found++
		if !skeletons[0].canEqual(skeletons[1]) || !skeletons[1].canEqual(skeletons[0]) {
			t.Errorf("%q: %v and %v do not meet", texts[0], skeletons[0], skeletons[1])
		}
	}
	if found < 100 {
		t.Errorf("only %d pairs were equal", found)
	}
}

// Templates that cannot give one text are told apart, so that nobody has to rename without need.
func TestSkeletonTellsApart(t *testing.T) {
	t.Parallel()
	number := func(before, after string) skeleton {
		return append(append(constantSkeleton(before), signedSymbols...), constantSkeleton(after)...)
	}
	text := func(before, after string) skeleton {
		return append(append(constantSkeleton(before), textSymbols...), constantSkeleton(after)...)
	}
	for i, pair := range [][2]skeleton{
		{text("welcome:", ""), text("goodbye:", "")},
		{text("user:", ":mail"), text("user:", ":sms")},
		{number("user:", ""), constantSkeleton("user:all")},
		{number("user:", ""), number("user:", ":1")},
		{number("a", ""), boolSymbols},
		{boolSymbols, constantSkeleton("all")},
		{boolSymbols, signedSymbols},
		{unsignedSymbols, constantSkeleton("-1")},
		{signedSymbols, constantSkeleton("")},
		{constantSkeleton("ä"), constantSkeleton("a")},
	} {
		if pair[0].canEqual(pair[1]) || pair[1].canEqual(pair[0]) {
			t.Errorf("pair %d: %v and %v meet", i, pair[0], pair[1])
		}
	}
}

// A long key is compared in a moment: each pair of places is looked at once.
func TestSkeletonIsBounded(t *testing.T) {
	t.Parallel()
	var long [2]skeleton
	for i := range 60 {
		long[0] = append(append(long[0], textSymbols...), constantSkeleton("a")...)
		long[1] = append(append(long[1], textSymbols...), constantSkeleton("a"+strings.Repeat("b", i%2))...)
	}
	if long[0].canEqual(append(long[1], constantSkeleton(strconv.Itoa(1))...)) {
		t.Error("a key that ends in a can be one that ends in 1")
	}
}
