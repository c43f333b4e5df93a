//go:build !unix

package npm

import "errors"

// lock does not lock here: several processes would all install.
func lock(string) (unlock func(), err error) { return nil, errors.ErrUnsupported }
