package backfill

import (
	"fmt"
	"slices"
)

// For generated code: what backfillgen's files call. Handwritten code needs none of it.

// GeneratedCodeVersion1 is referred to by generated code that needs this version of the package. If
// it is undefined, backfillgen is newer than the backfill module: upgrade the module, or generate
// with the module's own backfillgen.
const GeneratedCodeVersion1 = true

// Require is for generated code. It reports a start-up error naming field unless ok, as in
// Require("Handlers.Mailer", h.Mailer != nil, TaskSendEmail.Name). With the names of tasks, it is
// for registries that have one of them: [Registry.Only] drops it with the last.
func Require(field string, ok bool, tasks ...string) Binding {
	if ok {
		return Binding{}
	}
	return Binding{problem: &problem{
		fmt.Errorf("%s is required: set it in what you pass to NewRegistry", field), slices.Clone(tasks),
	}}
}

// OrNoClient is for generated code. It returns e or, if e is nil, an Enqueuer that reports
// [ErrNoClient].
func OrNoClient(e Enqueuer) Enqueuer {
	if e == nil {
		return noClient{}
	}
	return e
}
