//go:build race

package conviction_test

// seeds are few with the race detector, which makes the model ten times slower and has nothing to
// find in it.
const seeds = 3
