//go:build !race

package conviction_test

const seeds = 25
