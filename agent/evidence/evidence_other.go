//go:build !linux && !windows

package evidence

import "github.com/cetrus/cetrus/agent/activity"

// Processes tells of the processes of this machine: of this system, nothing.
type Processes struct{}

// New gives the evidence of this machine's processes.
func New() *Processes { return &Processes{} }

// CommandLine implements activity.Evidence.
func (*Processes) CommandLine(activity.Process) []string { return nil }

// OpenFiles implements activity.Evidence.
func (*Processes) OpenFiles(activity.Process) []string { return nil }

// Home implements activity.Evidence.
func (*Processes) Home(activity.Process) string { return "" }
