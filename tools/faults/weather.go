package faults

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/cetrus/cetrus/tools/faults/network"
)

// ways names those between a machine and others, as targets.
func ways(of string, to ...string) []string {
	named := make([]string, 0, len(to))
	for _, name := range to {
		named = append(named, min(of, name)+" to "+max(of, name))
	}
	return named
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(other string) bool { return other == name })
}

// weather makes ways between machines bad for a while.
func (s *stroke) weather(ctx context.Context, set []string) {
	if from, _, _ := strings.Cut(set[0], " to "); part(from) == "agents" {
		s.until(ctx, s.sending)
	} else {
		s.until(ctx, s.forwarding(ctx))
	}
	var c network.Condition
	switch s.kind {
	case LosePackets:
		c.Lost = 10 + s.random.below(300)
	case OvertakePackets:
		c.Delay = s.random.between(time.Millisecond, 100*time.Millisecond)
		c.Jitter = c.Delay
	case DamagePackets:
		c.Damaged, c.Repeated = 10+s.random.below(100), 10+s.random.below(100)
	default:
		c.Cut = true
	}
	back := s.random.below(2) == 0
	for _, named := range set {
		from, to := s.platform.site.ends(named)
		switch {
		case s.kind != PartitionOneWay:
			s.platform.site.network.SetBoth(from, to, c)
		case back:
			s.platform.site.network.Set(to, from, c)
		default:
			s.platform.site.network.Set(from, to, c)
		}
	}
	// A part is missed after some seconds; what is only slow is borne for longer.
	held := s.random.between(500*time.Millisecond, 3*time.Second)
	if s.random.below(4) == 0 {
		held = s.random.between(3*time.Second, 12*time.Second)
	}
	sleep(ctx, held)
	for _, named := range set {
		from, to := s.platform.site.ends(named)
		s.platform.site.network.SetBoth(from, to, network.Condition{})
	}
}

// ends are the machines of a way.
func (s *site) ends(named string) (from, to *network.Machine) {
	a, b, _ := strings.Cut(named, " to ")
	return s.machines[a], s.machines[b]
}
