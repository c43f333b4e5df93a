// Package crontab reads Graphile Worker's crontabs and says when their entries are due. It is pure:
// no clock, no files, no SQL, nothing but the standard library.
//
// The grammar and the meaning of the fields are the wire's (contract section 7.1), to the last
// character: a crontab that Node workers read means the same here, and one that they refuse is
// refused here. Beyond them, a line may say tz=Europe/Berlin. A few lines that a Node worker reads
// and then fails with at every tick, for the database refuses the job, are refused when they are
// read: max=0, numbers out of range, names that are too long, an empty jobKey, a payload with
// \u0000 or half a surrogate pair. So are Infinity, NaN and numbers beyond a double, which a Node
// worker turns into null.
//
// # Time zones
//
// Without tz, an entry goes by UTC, where nothing of what follows matters. With tz, it goes by the
// wall clock of the zone, and:
//
//   - Each local minute runs once.
//   - A local minute that is skipped, in spring, runs at the first instant after the gap. Several
//     that are skipped by one gap run there together, as one tick.
//   - A local minute that is repeated, in autumn, runs when it comes first.
//
// One sentence says all three: an entry is due at the instants at which the zone's clock reaches or
// passes a minute that matches, for the first time.
//
// So an entry that is meant to run every few minutes, such as */5 * * * *, does not run while the
// clock repeats its hour, and one such as 0 * * * * is due once in those two hours: leave tz away
// where the interval matters, and not the time of day.
package crontab
