// Package infra tests how workers and clients live with what is around them: a disk that is full, a
// server that restarts or takes no writes, sessions that are ended, rights that are taken away, and
// what was set for a role or a database. It has nothing but tests.
//
// Each test has a real worker, and a real server, which is the test's own where it is damaged. What
// was acknowledged and what has run is written down in the memory of the test, which outlives both.
package infra
