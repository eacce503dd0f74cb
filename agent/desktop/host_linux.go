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

// lookUpUser finds the names of an operating-system user. A user of a directory
// (LDAP, Active Directory) is not in the local file; the system's own tool is
// asked for those, once.
func lookUpUser(uid uint32) activity.User {
	id := strconv.FormatUint(uint64(uid), 10)
	name, display := id, ""
	if u, err := user.LookupId(id); err == nil {
		name, display = u.Username, u.Name
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if line, err := exec.CommandContext(ctx, "getent", "passwd", id).Output(); err == nil {
			if fields := strings.Split(strings.TrimSpace(string(line)), ":"); len(fields) >= 5 {
				name, display = fields[0], fields[4]
			}
		}
	}
	hostName, _ := os.Hostname()
	return userNamed(name, display, hostName)
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
