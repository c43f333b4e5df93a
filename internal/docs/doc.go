// Package docs tests that what the documentation tells users to write and to run works. It has nothing but tests.
package docs
