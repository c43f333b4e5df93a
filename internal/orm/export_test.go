package orm

var (
	EnqueueTrace = enqueueTrace
	WorkTrace    = workTrace
)
