package desktop

import (
	"bufio"
	"context"
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

// lookUpUser finds the names of an operating-system user.
func lookUpUser(uid uint32) activity.User {
	name, display := strconv.FormatUint(uint64(uid), 10), ""
	if fields := passwdOf(uid); fields != nil {
		name, display = fields[0], fields[4]
	}
	hostName, _ := os.Hostname()
	return userNamed(name, display, hostName)
}

// nobody's group is one that owns nothing.
const nobodysGroup = 65534

// groupOf is the first group of an operating-system user.
func groupOf(uid uint32) uint32 {
	if fields := passwdOf(uid); fields != nil {
		if gid, err := strconv.ParseUint(fields[3], 10, 32); err == nil {
			return uint32(gid)
		}
	}
	return nobodysGroup
}

// homeOf is the home of an operating-system user; empty: it is not known.
func homeOf(uid uint32) string {
	if fields := passwdOf(uid); fields != nil {
		return fields[5]
	}
	return ""
}

// passwdOf gives the fields of passwd(5) of a user; nil: there is none. A user of a
// directory (LDAP, Active Directory) is not in the local file; the system's own tool is
// asked for those.
func passwdOf(uid uint32) []string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return []string{u.Username, "", u.Uid, u.Gid, u.Name, u.HomeDir}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	line, err := exec.CommandContext(ctx, "getent", "passwd", id).Output()
	if err != nil {
		return nil
	}
	if fields := strings.Split(strings.TrimSpace(string(line)), ":"); len(fields) >= 6 {
		return fields
	}
	return nil
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
