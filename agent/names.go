package agent

import (
	"context"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

// How long somebody who asks waits for the system's directory of users, for how long its
// word is taken, and of how many.
const (
	namePatience = 2 * time.Second
	nameValid    = time.Minute
	maxNames     = 256
)

// names are whom the numbers of users stand for, by the system's directory of users. That
// may be on the network: it is asked once a while, and not waited for long.
type names struct {
	lookUp func(ctx context.Context, uid string) (activity.User, error)

	mu    sync.Mutex
	known map[string]knownName
}

type knownName struct {
	user  activity.User
	until time.Time
}

func newNames(lookUp func(ctx context.Context, uid string) (activity.User, error)) *names {
	return &names{lookUp: lookUp, known: make(map[string]knownName)}
}

// of names a user; an error says that nobody can say whom that is.
func (n *names) of(ctx context.Context, uid string) (activity.User, error) {
	n.mu.Lock()
	known, found := n.known[uid]
	n.mu.Unlock()
	if found && time.Now().Before(known.until) {
		return known.user, nil
	}
	ctx, cancel := context.WithTimeout(ctx, namePatience)
	defer cancel()
	user, err := n.lookUp(ctx, uid)
	if err != nil {
		return activity.User{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= maxNames {
		clear(n.known)
	}
	n.known[uid] = knownName{user: user, until: time.Now().Add(nameValid)}
	return user, nil
}

// named says by name who asks, where the system tells a number: whoever has had a session
// is whom that was recorded as, which needs no directory, and is the same person though the
// directory says something else by now.
func (a *Agent) named(ctx context.Context, u activity.User, others *names) (activity.User, error) {
	if u.UID == "" {
		return u, nil
	}
	a.mu.Lock()
	for _, seen := range a.users {
		if seen.UID == u.UID {
			a.mu.Unlock()
			return seen, nil
		}
	}
	a.mu.Unlock()
	return others.of(ctx, u.UID)
}

// sits tells whether a session of a user's is watched.
func (a *Agent) sits(uid string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.people {
		if s.user.UID == uid && uid != "" {
			return true
		}
	}
	return false
}
