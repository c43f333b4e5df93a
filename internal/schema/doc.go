// Package schema inspects, installs and upgrades the tables, and gives roles their rights on them.
// The SQL is that of package migrations.
package schema
