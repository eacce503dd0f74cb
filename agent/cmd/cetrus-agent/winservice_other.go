//go:build !windows

package main

import (
	"context"

	"github.com/cetrus/cetrus/agent/desktop"
)

// systemPart is what this system needs of a program: nothing.
type systemPart struct{}

func (systemPart) watching(desktop.Desktop) {}

// accompany is for systems where the service has to show the icon; elsewhere sessions start
// it themselves.
func (p *program) accompany(d desktop.Desktop) (desktop.Desktop, error) { return d, nil }

// underServiceManager is for systems whose service manager asks a program into a
// conversation; others start it like any program.
func (p *program) underServiceManager(context.Context) (ran bool, err error) { return false, nil }

// afterInstall completes what the service manager's package leaves out.
func afterInstall(string) error { return nil }
