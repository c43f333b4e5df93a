package backfill

import (
	"encoding"
	"fmt"
)

// TemplateText is for generated code: it returns the text of a field, of a type such as uuid.UUID,
// in the queue or the key of a task. It panics if MarshalText fails, of which [Task.Request] makes
// an error.
func TemplateText(v encoding.TextMarshaler) string {
	text, err := v.MarshalText()
	if err != nil {
		panic(fmt.Errorf("%T.MarshalText: %w", v, err)) //nolint:forbidigo // recovered by Task.Request
	}
	return string(text)
}
