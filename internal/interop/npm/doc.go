// Package npm installs the real Graphile Worker, the npm package, in three versions, and a Node that runs it, for tests and the
// benchmark to run beside backfill. What package.json and its lockfile say is installed once, into the user's cache folder. To change
// a version, change package.json, and run here
//
//	npm install --package-lock-only --omit-lockfile-registry-resolved
package npm
