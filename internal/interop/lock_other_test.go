//go:build !unix

package interop_test

import "errors"

// lock does not lock here: several test binaries would all install.
func lock(string) (unlock func(), err error) { return nil, errors.ErrUnsupported }
