package backfill

// ExplainConnect is what a client says when it gets no connection.
var ExplainConnect = explainConnect
