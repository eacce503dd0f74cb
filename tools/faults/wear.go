package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cetrus/cetrus/tools/faults/disk"
	"github.com/cetrus/cetrus/tools/stack"
)

const diskOf = "disk of "

// spared is what nothing else may strike while the disk of a machine is bad. A NATS server whose disk fails may
// come back without what it had: until it has all again, the others have to be there.
func (s *site) spared(name string) []string {
	if part(name) != "nats" {
		return nil
	}
	spared := slices.Clone(s.servers)
	for i, server := range s.servers {
		spared = append(spared, ways(server, s.servers[i+1:]...)...)
		if server != name {
			spared = append(spared, diskOf+server)
		}
	}
	return spared
}

// wear makes a disk bad for a while: full, read-only, or failing some of what is asked of it.
func (s *stroke) wear(ctx context.Context, set []string) error {
	name := strings.TrimPrefix(set[0], diskOf)
	s.underWay(ctx, name)
	d := s.platform.site.disks[name]
	before := d.Figures().Failed
	switch s.kind {
	case FillDisk:
		full := disk.Full()
		full.Untold = s.random.below(2) == 0
		d.Fail(full)
	case DiskReadOnly:
		d.Fail(disk.ReadOnly())
	default:
		d.Fail(disk.Broken(1 + s.random.below(500)))
	}
	sleep(ctx, s.random.between(200*time.Millisecond, 3*time.Second))
	d.Fail(disk.Failure{})
	// What failed nothing has met nothing.
	s.met = d.Figures().Failed > before
	if part(name) != "nats" {
		return nil
	}
	return s.whole(ctx)
}

// wholeWithin is how long NATS servers may take until they have all they should, on a machine with much else to do.
const wholeWithin = 5 * time.Minute

// whole waits until all NATS servers say that they have all they should. Those that have given up writing end, and
// are started again.
func (s *stroke) whole(ctx context.Context) error {
	began := time.Now()
	err := stack.Wait(ctx, wholeWithin, "the NATS servers to be whole again", func() error {
		var failures []error
		for _, name := range s.platform.site.servers {
			failures = append(failures, s.platform.site.readyNow(ctx, name))
		}
		return errors.Join(failures...)
	})
	if took := time.Since(began); took > 15*time.Second {
		fmt.Fprintf(s.Out, "faults: the NATS servers were whole after %s (%s of %s)\n", took.Round(time.Second), s.kind, s.struck[0])
	}
	return err
}

// underWay waits until there is something to lose on a machine.
func (s *stroke) underWay(ctx context.Context, name string) {
	switch part(name) {
	case "agents", "manager":
		s.until(ctx, s.sending)
	default:
		s.until(ctx, s.forwarding(ctx))
	}
}

// powerLoss kills what runs on machines and takes what was not synced on their disks; then they start again.
func (s *stroke) powerLoss(ctx context.Context, set []string) error {
	var names []string
	for _, target := range set {
		if !strings.HasPrefix(target, diskOf) {
			names = append(names, target)
		}
	}
	s.underWay(ctx, names[0])
	for _, name := range names {
		s.program(name).kill()
	}
	var failures []error
	for _, name := range names {
		failures = append(failures, s.platform.site.room.within(s.platform.site.disks[name].PowerCut))
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("power loss: %w", err)
	}
	sleep(ctx, s.random.between(0, 400*time.Millisecond))
	for _, name := range names {
		failures = append(failures, s.program(name).start())
	}
	return errors.Join(failures...)
}
