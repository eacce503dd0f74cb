//go:build !linux

package agent

import "github.com/cetrus/cetrus/agent/activity"

// Windows has no documented call that suspends a process: launches are not held there yet,
// and the prompt does not wait.
func suspend(activity.ProcessKey) {}

func resume(activity.ProcessKey) {}

func bootNow() string { return "" }
