//go:build !race

package crontab_test

const raceDetector = false
