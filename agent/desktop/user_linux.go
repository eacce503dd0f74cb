package desktop

import "github.com/cetrus/cetrus/agent/activity"

// UserOf is a user as the sessions of this machine name them.
func UserOf(uid uint32) activity.User { return lookUpUser(uid) }
