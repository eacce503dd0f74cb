//go:build !linux && !windows

package agent

import "github.com/cetrus/cetrus/agent/activity"

// No launch is held on this system, and the prompt does not wait.
func identify(activity.ProcessKey, activity.User) (program, bool) { return program{}, false }

func suspend(program) {}

func resume(program) {}

func sameBoot(string) bool { return false }
