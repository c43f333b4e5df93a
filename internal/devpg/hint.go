package devpg

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// notFound is the error of a search without result: what to type, and why
// nothing that was looked at would do.
func (s *search) notFound() error {
	wanted := fmt.Sprintf("PostgreSQL %d or newer", oldestMajor)
	if s.major != 0 {
		wanted = fmt.Sprintf("PostgreSQL %d", s.major)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "find PostgreSQL: no %s was found\n", wanted)
	fmt.Fprintf(&text, "install it:  %s\n", installCommand(s.goos, s.distro, s.major))
	text.WriteString("or name a server in DATABASE_URL, or a folder with postgres and initdb in PG_BIN\n")
	text.WriteString("tried:")
	for _, line := range s.tried {
		text.WriteString("\n  - " + line)
	}
	return errors.New(text.String())
}

// installCommand is what installs PostgreSQL on a system; of one major where
// that system's packages are named so.
func installCommand(goos string, distro []string, major int) string {
	dash, at := "", ""
	if major != 0 {
		dash, at = fmt.Sprintf("-%d", major), fmt.Sprintf("@%d", major)
	}
	is := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(distro, name) })
	}
	switch {
	case goos == "darwin":
		if at == "" {
			at = fmt.Sprintf("@%d", defaultMajor)
		}
		return "brew install postgresql" + at
	case goos == "windows":
		if major == 0 {
			major = defaultMajor
		}
		return fmt.Sprintf("winget install PostgreSQL.PostgreSQL.%d", major)
	case is("debian", "ubuntu"):
		return asRoot("apt-get install -y postgresql" + dash)
	case is("fedora", "rhel", "centos", "amzn"):
		return asRoot("dnf install -y postgresql-server postgresql-contrib")
	case is("alpine"):
		return asRoot("apk add postgresql" + strings.TrimPrefix(dash, "-"))
	case is("arch"):
		return asRoot("pacman -S postgresql")
	default:
		return "the package named postgresql or postgresql-server of your system"
	}
}

func asRoot(command string) string {
	if os.Geteuid() > 0 {
		return "sudo " + command
	}
	return command
}

// readOSRelease returns ID and ID_LIKE of a Linux distribution, and nothing on
// other systems.
func readOSRelease(path string) []string {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	var ids []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name == "ID" || name == "ID_LIKE" {
			ids = append(ids, strings.Fields(strings.Trim(value, `"'`))...)
		}
	}
	return ids
}
