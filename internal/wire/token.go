package wire

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
)

// NewWorkerID returns a fresh worker id in the shape of a Graphile Worker pool id: "pool-" and 18
// hex digits (contract section 5.1). It is never used again after the worker stops or is fenced
// (R2).
func NewWorkerID() string {
	var random [9]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the process rather than return an error
	return "pool-" + hex.EncodeToString(random[:])
}

// ClaimToken names one claim of one worker. Locked queues carry it; locked jobs carry it with the
// attempt appended (R2).
func ClaimToken(workerID string, number uint64) string {
	return workerID + "." + strconv.FormatUint(number, 16)
}

// Claim returns the token of the claim that the lease came from, which its queue carries.
func (l Lease) Claim() string {
	if i := strings.LastIndexByte(l.Token, '.'); i >= 0 {
		return l.Token[:i]
	}
	return ""
}

// Attempt returns the attempt that the lease is for; 0 if the token is none of ours.
func (l Lease) Attempt() int {
	last := strings.TrimSuffix(l.Token[strings.LastIndexByte(l.Token, '.')+1:], "k")
	attempt, err := strconv.Atoi(last)
	if err != nil {
		return 0
	}
	return attempt
}

// Keyed reports whether the job had a key when it was claimed.
func (l Lease) Keyed() bool { return strings.HasSuffix(l.Token, "k") }

var (
	workerID   = regexp.MustCompile(`^pool-[0-9a-f]{18}$`)
	leaseToken = regexp.MustCompile(`^(.+)\.[0-9a-f]+\.[0-9]{1,9}k?$`)
	claimToken = regexp.MustCompile(`^(.+)\.[0-9a-f]+$`)
)

var suspectToken = regexp.MustCompile(`^backfill-suspect\.([0-9a-f]{18})(?:\.[0-9]{1,9}k?)?$`)

// CohortOf returns the cohort that a suspect, or the queue of one, is locked for; ok is false for
// another value of locked_by.
func CohortOf(lockedBy string) (cohort string, ok bool) {
	if match := suspectToken.FindStringSubmatch(lockedBy); match != nil {
		return match[1], true
	}
	return "", false
}

// IsWorkerID reports whether an id has the shape of NewWorkerID. Node workers have such ids too, by
// default.
func IsWorkerID(id string) bool { return workerID.MatchString(id) }

// WorkersOf returns the ids of the workers that a value of locked_by can be a token of: a job's or
// a queue's.
func WorkersOf(lockedBy string) []string {
	var ids []string
	for _, shape := range []*regexp.Regexp{leaseToken, claimToken} {
		if match := shape.FindStringSubmatch(lockedBy); match != nil {
			ids = append(ids, match[1])
		}
	}
	return ids
}
