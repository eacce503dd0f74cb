package desktop

import (
	"context"
	"os"
	"strconv"
	"strings"

	"github.com/cetrus/cetrus/agent/activity"
)

// UserOf is whom a number stands for; nobody's has itself for a name. An error says that
// the directory of users does not answer, so that it is not known. Whoever has a session is
// called what the login manager says, which the directory need not be there for: an
// observation says that.
func UserOf(ctx context.Context, uid uint32) (activity.User, error) {
	fields, err := passwdOf(ctx, uid)
	if err != nil {
		return activity.User{}, err
	}
	return userFrom(uid, "", fields), nil
}

// IsRunBy tells whether a process is run by a user, and has the rights of nobody else.
func IsRunBy(pid int32, uid string) bool {
	text, err := os.ReadFile(proc + "/" + strconv.Itoa(int(pid)) + "/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			fields := strings.Fields(ids) // real, effective, saved, of the file system
			for _, id := range fields {
				if id != uid {
					return false
				}
			}
			return len(fields) > 0
		}
	}
	return false
}
