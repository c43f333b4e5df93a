package backfill

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// batchOf returns the *BatchError that err is or wraps. It ignores one that is joined with other
// errors: to retry the failed elements only would lose the other errors.
func batchOf(err error) (*BatchError, bool) {
	for err != nil {
		if batch, ok := err.(*BatchError); ok { //nolint:errorlint // errors.As looks into joined errors, too
			return batch, true
		}
		err = errors.Unwrap(err)
	}
	return nil, false
}

// shrink returns the args for the retry: the elements that failed, byte for byte, or nil if the job
// keeps its args. It also returns the error to record: the batch's own, or err with the reason why
// the args are kept.
func shrink(payload []byte, batch *BatchError, err error) ([]byte, error) {
	var elements []json.RawMessage
	if json.Unmarshal(payload, &elements) != nil || elements == nil {
		return nil, fmt.Errorf("BatchError of a job whose args are not an array, all of them are kept: %w", err)
	}
	failed := batch.failed()
	for _, i := range failed {
		if i < 0 || i >= len(elements) {
			return nil, fmt.Errorf("BatchError for element %d of %d, all of them are kept: %w", i, len(elements), err)
		}
	}
	if len(failed) == len(elements) {
		return nil, batch
	}
	var kept bytes.Buffer
	for n, i := range failed {
		kept.WriteByte("[,"[min(n, 1)])
		kept.Write(elements[i])
	}
	kept.WriteByte(']')
	return kept.Bytes(), batch
}
