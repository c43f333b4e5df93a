package devpg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	templatePrefix = "template-"
	templateFormat = "1" // to be raised when initdb's arguments change
	templateAge    = 30 * 24 * time.Hour
)

// create fills the data folder of an ephemeral cluster, by copying the template
// in the cache, or else with initdb. The template's password is then the
// cluster's, until it is changed after the start.
func (c *cluster) create(ctx context.Context) error {
	template, err := c.templatePath()
	if err != nil {
		return c.initdb(ctx, c.data()) // There is no cache that we can write to.
	}
	if c.copyTemplate(template) == nil {
		return nil
	}
	// Many may start at once: one makes the template, the others wait for it.
	lock, err := waitLock(ctx, template+".lock")
	if err != nil {
		return c.initdb(ctx, c.data())
	}
	defer lock.release()
	if c.copyTemplate(template) == nil {
		return nil
	}
	if err := c.initdb(ctx, c.data()); err != nil {
		return err
	}
	// A failure here costs the next start time, and nothing else.
	if c.saveTemplate(template) == nil {
		dropOldTemplates(template)
	}
	return nil
}

// templatePath names the template of this very PostgreSQL.
func (c *cluster) templatePath() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	program, err := os.Stat(c.install.program("postgres"))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendln(nil, templateFormat, c.install.bin, c.install.version, program.Size(), program.ModTime().UnixNano()))
	return filepath.Join(cache, templatePrefix+c.install.version+"-"+hex.EncodeToString(sum[:8])), nil
}

func (c *cluster) copyTemplate(template string) error {
	password, err := os.ReadFile(filepath.Join(template, passwordName))
	if err != nil {
		return err
	}
	err = copyTree(filepath.Join(template, dataName), c.data())
	if err == nil {
		err = c.ownAll()
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(c.data()))
	}
	c.password = string(password)
	now := time.Now()
	_ = os.Chtimes(template, now, now) // Only says that it is in use.
	return nil
}

// saveTemplate copies new data to the cache, beside its place and then there in
// one step.
func (c *cluster) saveTemplate(template string) error {
	temp, err := os.MkdirTemp(filepath.Dir(template), ".template-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if err := copyTree(c.data(), filepath.Join(temp, dataName)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, passwordName), []byte(c.password), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, template)
}

// dropOldTemplates removes the templates that were not used for long, such as
// those of minor versions that are gone.
func dropOldTemplates(current string) {
	cache := filepath.Dir(current)
	entries, err := os.ReadDir(cache)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || time.Since(info.ModTime()) < templateAge {
			continue
		}
		name := entry.Name()
		if strings.HasPrefix(name, templatePrefix) || strings.HasPrefix(name, ".template-") || strings.HasPrefix(name, ".fetch-") {
			_ = os.RemoveAll(filepath.Join(cache, name)) // Somebody else's turn next time.
		}
	}
}

// copyTree copies folders and files, for the owner alone: PostgreSQL insists.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if entry.IsDir() {
			return os.Mkdir(target, 0o700)
		}
		return copyFile(path, target)
	})
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
