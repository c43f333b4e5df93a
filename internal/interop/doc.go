// Package interop tests backfill beside the real Graphile Worker, the npm package of package.json. It has nothing but tests.
//
// A test drives Node processes, which run peer.mjs, through their input and output. The packages are installed once into the
// user's cache folder, for each content of package.json and its lockfile. To change a version, change package.json, and run here
//
//	npm install --package-lock-only --omit-lockfile-registry-resolved
package interop
