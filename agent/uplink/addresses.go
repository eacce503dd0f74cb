package uplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/proxy"
)

const (
	// DefaultMovePause is how long a connection is kept, after one attempt to move to another
	// Manager, before the next: two Managers that name each other do not toss agents about.
	DefaultMovePause = 10 * time.Minute
	// moveLook is how often it is looked whether a Manager to move to can be reached.
	moveLook = 30 * time.Second
	// reachPatience is how long that may take.
	reachPatience = 5 * time.Second
)

// errMoving ends a connection whose Manager named others, one of which can be reached.
var errMoving = errors.New("uplink: the Manager names others to go to")

// Addresses are where Managers are looked for, in the order of preference: what a Manager
// has told, until one of these has taken the agent or it was told otherwise; what was adopted
// so before; and always what was configured, so that nobody's word locks the agent out.
func (u *Uplink) Addresses() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.addresses()
}

// addresses is the same with mu held.
func (u *Uplink) addresses() []string {
	var list []string
	for _, address := range slices.Concat(u.told, u.adopted, u.config.Managers) {
		if !slices.Contains(list, address) {
			list = append(list, address)
		}
	}
	return list
}

// tell takes in which Managers one names; to are those to move to, none where it is among
// them.
func (u *Uplink) tell(manager string, list []string) (to []string) {
	if u.deps.Adopt == nil {
		return nil
	}
	err := error(nil)
	if len(list) == 0 || len(list) > contract.MaxManagers {
		err = fmt.Errorf("it names %d; from 1 to %d are possible", len(list), contract.MaxManagers)
	}
	for _, address := range list {
		err = errors.Join(err, contract.CheckAddress(address))
	}
	if err != nil {
		u.deps.Log.Warn("the addresses of Managers that a Manager names are not taken", "manager", manager, "reason", err)
		return nil
	}
	u.mu.Lock()
	if u.told = nil; !slices.Equal(list, u.adopted) {
		u.told = list
	}
	u.mu.Unlock()
	u.Appended() // for adopt
	if slices.Contains(list, manager) {
		return nil
	}
	return list
}

// adopt makes what was told the agent's own, where the Manager of this connection is one of
// them and has taken what it was sent.
func (s *session) adopt() {
	u := s.uplink
	now := time.Now()
	s.mu.Lock()
	taken := s.acked || len(s.flights) == 0 && now.After(s.throttled)
	s.mu.Unlock()
	u.mu.Lock()
	for _, h := range u.holds {
		taken = taken && now.After(h.until)
	}
	told := u.told
	if !taken || !slices.Contains(told, s.address) {
		u.mu.Unlock()
		return
	}
	u.told, u.adopted = nil, told
	u.mu.Unlock()
	if err := u.deps.Adopt(told); err != nil {
		u.deps.Log.Error("the addresses of Managers hold until the agent stops, and are to be told again then", "managers", told, "reason", err)
		return
	}
	u.deps.Log.Info("these are the agent's Managers from now on", "managers", told)
}

// move ends the connection once one of the Managers to go to can be reached.
func (s *session) move(ctx context.Context, to []string, giveUp context.CancelFunc) {
	u := s.uplink
	u.mu.Lock()
	wait := time.Until(u.moveAfter)
	u.mu.Unlock()
	for len(to) > 0 {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = moveLook
		for _, address := range to {
			if err := u.reach(ctx, address); err != nil {
				if ctx.Err() != nil {
					return
				}
				u.mu.Lock()
				news := u.problems[address] != err.Error()
				u.problems[address] = err.Error()
				u.mu.Unlock()
				if news {
					u.ShowHealth()
				}
				continue
			}
			u.deps.Log.Info("the Manager names others, and one of them answers", "manager", s.address, "other", address)
			u.mu.Lock()
			u.moveAfter = time.Now().Add(u.config.MovePause)
			u.mu.Unlock()
			s.mu.Lock()
			s.overdue = errMoving
			s.mu.Unlock()
			giveUp()
			return
		}
	}
}

// dial connects to an address, through a proxy where there is one.
func (u *Uplink) dial(ctx context.Context, address string) (net.Conn, error) {
	return proxy.Dial(ctx, u.config.Proxy, "cetrus-agent", address)
}

// AnyReachable tells whether somebody listens where a Manager is looked for: then an agent
// that is not welcomed has only itself to blame.
func (u *Uplink) AnyReachable(ctx context.Context) bool {
	return slices.ContainsFunc(u.Addresses(), func(address string) bool { return u.reach(ctx, address) == nil })
}

// reach tells whether anybody listens at an address.
func (u *Uplink) reach(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	conn, err := u.dial(ctx, address)
	if err != nil {
		return fmt.Errorf("uplink: connect to %s: %w", address, err)
	}
	return conn.Close()
}
