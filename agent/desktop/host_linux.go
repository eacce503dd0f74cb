package desktop

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

// host reads what the machine is called.
func host() Host {
	name, _ := os.Hostname()
	return Host{Name: name, OperatingSystem: operatingSystem()}
}

// operatingSystem is the distribution's own name, such as "Debian GNU/Linux 12
// (bookworm)".
func operatingSystem() string {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		file, err := os.Open(name)
		if err != nil {
			continue
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if value, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
				return strings.Trim(value, `"'`)
			}
		}
	}
	return "Linux"
}

// userFrom names a user: by what they have logged in as where that is known, as passwd(5)
// has them otherwise, whose fields may be nil, and by their number where nothing says more.
func userFrom(uid uint32, login string, fields []string) activity.User {
	number, display := strconv.FormatUint(uint64(uid), 10), ""
	if fields != nil {
		login, display = cmp.Or(login, fields[0]), fields[4]
	}
	hostName, _ := os.Hostname()
	user := userNamed(cmp.Or(login, number), display, hostName)
	user.UID = number
	return user
}

// nobody's group is one that owns nothing.
const nobodysGroup = 65534

// groupOf is the first group of an operating-system user.
func groupOf(uid uint32) uint32 {
	if fields := knownOf(uid); fields != nil {
		if gid, err := strconv.ParseUint(fields[3], 10, 32); err == nil {
			return uint32(gid)
		}
	}
	return nobodysGroup
}

// homeOf is the home of an operating-system user; empty: it is not known.
func homeOf(uid uint32) string {
	if fields := knownOf(uid); fields != nil {
		return fields[5]
	}
	return ""
}

// directoryPatience is how long a program that is to be started waits for the directory of
// users.
const directoryPatience = 5 * time.Second

// knownOf gives the fields of passwd(5) of a user; nil: nothing tells them.
func knownOf(uid uint32) []string {
	ctx, cancel := context.WithTimeout(context.Background(), directoryPatience)
	defer cancel()
	fields, _ := passwdOf(ctx, uid)
	return fields
}

// passwdOf gives the fields of passwd(5) of a user; nil: there is none. A user of a
// directory (LDAP, Active Directory) is not in the local file; the system's own tool is
// asked for those. An error says that it has not answered.
func passwdOf(ctx context.Context, uid uint32) ([]string, error) {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return []string{u.Username, "", u.Uid, u.Gid, u.Name, u.HomeDir}, nil
	}
	command := exec.CommandContext(ctx, "getent", "passwd", id)
	command.WaitDelay = time.Second
	line, err := command.Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("desktop: the directory of users does not say who user %s is: %w", id, ctx.Err())
	}
	if err != nil {
		return nil, nil //nolint:nilerr // There is no such user, or no directory.
	}
	if fields := strings.Split(strings.TrimSpace(string(line)), ":"); len(fields) >= 6 {
		return fields, nil
	}
	return nil, nil
}

// userNamed sorts a login name into the fields that say whom it stands for.
// Directory users are called user@domain or DOMAIN\user, according to how the
// machine joined; anybody else belongs to this machine.
func userNamed(name, display, hostName string) activity.User {
	display, _, _ = strings.Cut(display, ",") // room and telephone follow in old files
	u := activity.User{Name: name, Domain: hostName, DisplayName: display}
	if login, domain, ok := strings.Cut(name, "@"); ok {
		u.UserPrincipalName, u.Name, u.Domain = name, login, domain
	}
	if domain, login, ok := strings.Cut(name, `\`); ok {
		u.Domain, u.Name = domain, login
	}
	return u
}
