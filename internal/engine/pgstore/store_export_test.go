package pgstore

import "github.com/backfillhq/go/internal/engine/pgstore/query"

// RewriteClaims changes the texts of the store's later claims.
func (s *Store) RewriteClaims(rewrite func(string) string) {
	for _, size := range batchSizes {
		for _, which := range []*claimText{claimFree, claimFront, claimDeep} {
			s.claims.sized[sized{which, size}] = rewrite(s.claims.text(which, size))
		}
	}
}

// ClaimTexts are the texts of a full batch's claim, for the default schema.
func ClaimTexts() map[string]string {
	return map[string]string{
		"free":  withLimits(query.ClaimFree, batchSizes[len(batchSizes)-1]),
		"front": withLimits(query.ClaimFront, batchSizes[len(batchSizes)-1]),
		"deep":  withLimits(query.ClaimDeep, batchSizes[len(batchSizes)-1]),
	}
}

// EngineSession is what a worker's connections run with.
const EngineSession = engineSession

// BatchSizes are the limits that a claim can have.
var BatchSizes = batchSizes
