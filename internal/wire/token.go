package wire

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
)

// NewWorkerID returns a fresh worker id in the shape of a Graphile Worker pool id: "pool-" and 18 hex digits
// (contract section 5.1). It is never used again after the worker stops or is fenced (R2).
func NewWorkerID() string {
	var random [9]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the process rather than return an error
	return "pool-" + hex.EncodeToString(random[:])
}

// ClaimToken names one claim of one worker. Locked queues carry it; locked jobs carry it with the attempt appended (R2).
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
