//go:build unix

package devpg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	templatePrefix = "template-"
	templateFormat = "1" // to be raised when initdb's arguments change
	templateAge    = 30 * 24 * time.Hour
)

// create fills the data folder of an ephemeral cluster by copying the template in the cache, which
// takes 0.04 s where initdb takes a second. The template's password is then the cluster's, until it
// is changed after the start.
func (c *cluster) create(ctx context.Context) error {
	template, err := c.templatePath()
	if err != nil {
		return c.initdb(ctx, c.data()) // There is no cache that we can write to.
	}
	if c.copyTemplate(template) == nil {
		return nil
	}
	if err := c.initdb(ctx, c.data()); err != nil {
		return err
	}
	// A failure here costs the next start time, and nothing else. Of many that start at once, the
	// first saves its template.
	if c.saveTemplate(template) == nil {
		dropOld(filepath.Dir(template))
	}
	return nil
}

// templatePath names the template of this very PostgreSQL.
func (c *cluster) templatePath() (string, error) {
	cache, err := CacheDir(cacheName)
	if err != nil {
		return "", err
	}
	program, err := os.Stat(filepath.Join(c.install.bin, "postgres"))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendln(nil, templateFormat, c.install.bin, c.install.version,
		program.Size(), program.ModTime().UnixNano()))
	return filepath.Join(cache, templatePrefix+c.install.version+"-"+hex.EncodeToString(sum[:8])), nil
}

func (c *cluster) copyTemplate(template string) error {
	password, err := os.ReadFile(filepath.Join(template, passwordName))
	if err != nil {
		return err
	}
	if err := copyData(filepath.Join(template, dataName), c.data()); err != nil {
		return errors.Join(err, os.RemoveAll(c.data()))
	}
	c.password = string(password)
	now := time.Now()
	_ = os.Chtimes(template, now, now) // Only says that it is in use.
	return nil
}

// saveTemplate copies new data to the cache, beside its place and then there in one step.
func (c *cluster) saveTemplate(template string) error {
	temp, err := os.MkdirTemp(filepath.Dir(template), ".template-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if err := copyData(c.data(), filepath.Join(temp, dataName)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, passwordName), []byte(c.password), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, template)
}

// dropOld removes from the cache what was not used for a long time, such as the templates of minor
// versions that are gone.
func dropOld(cache string) {
	for _, prefix := range []string{templatePrefix, ".template-", ".fetch-"} {
		paths, _ := filepath.Glob(filepath.Join(cache, prefix+"*")) // The pattern is well-formed.
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > templateAge {
				_ = os.RemoveAll(path) // What fails is left to the next one.
			}
		}
	}
}

// copyData copies a data folder, which the owner alone may read: PostgreSQL insists.
func copyData(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}
