//go:build race

package crontab_test

// raceDetector says that the tests run with it. It makes the model of zones ten times slower, and
// has nothing to find there.
const raceDetector = true
