package backfill

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// batchOf returns the *BatchError that err is or wraps. One that is joined with other errors does
// not count: they would be lost with the elements that are not tried again.
func batchOf(err error) (*BatchError, bool) {
	for err != nil {
		if batch, ok := err.(*BatchError); ok { //nolint:errorlint // errors.As would look into joined errors
			return batch, true
		}
		err = errors.Unwrap(err)
	}
	return nil, false
}

// shrink returns the args of the elements that failed, byte for byte; nil if the job keeps its
// args. The error is the one to record: the batch's own, without what it is wrapped in, or with the
// reason why the args were kept.
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
