package release

import "os"

// What a process that was launched finds in its environment.
const (
	roleVariable     = "CETRUS_RELEASE_ROLE"
	launcherVariable = "CETRUS_RELEASE_LAUNCHER"
	roleCurrent      = "current"
	roleTrial        = "trial"
)

// OnTrial tells whether this process is a release that has to show that it is well.
func OnTrial() bool { return os.Getenv(roleVariable) == roleTrial }

// Launched tells whether this process is a release that the installed program has started.
func Launched() bool { return os.Getenv(roleVariable) != "" }
