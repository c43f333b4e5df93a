// Package interop tests backfill beside the real Graphile Worker, which package npm installs. It has nothing but tests.
//
// A test drives Node processes, which run peer.mjs, through their input and output. The points of the contract's section 11 B are
// TestB1… to TestB10…; a table of their results is printed at the end.
package interop
