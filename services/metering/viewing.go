package metering

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// oneView is for how long the same question of the same caller is one view: pages, and
	// screens that look again and again.
	oneView = 15 * time.Minute
	// maxViews bounds how many views are remembered.
	maxViews = 10_000
	// maxViewed bounds whose use a view names.
	maxViewed = 100
	// viewAttempts is how often a view is appended while other processes append some of the
	// same caller.
	viewAttempts = 20
)

// viewed are the views that were recorded a short while ago.
type viewed struct {
	appending sync.Mutex // views of one process wait rather than conflict

	mu    sync.Mutex
	until map[[sha256.Size]byte]time.Time
}

func newViewed() *viewed { return &viewed{until: make(map[[sha256.Size]byte]time.Time)} }

func (v *viewed) known(view [sha256.Size]byte, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return now.Before(v.until[view])
}

func (v *viewed) add(view [sha256.Size]byte, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.until) >= maxViews {
		clear(v.until) // some are then recorded twice
	}
	v.until[view] = now.Add(oneView)
}

// look is whose use is looked at; empty: everybody's.
type look struct {
	principals, machines []contract.ID
	instance             contract.ID
}

// view records that a caller looks at the use of named people, before they see it; it refuses
// where the account asks for a reason and there is none. Who sees their own needs neither.
func (s *Service) view(ctx context.Context, op string, caller authn.Caller, reason string, at look) error {
	if caller.Reach == authzv1.Reach_REACH_SELF {
		return nil
	}
	if reason = strings.TrimSpace(reason); strings.ContainsFunc(reason, unseen) || reason != "" && !strings.ContainsFunc(reason, unicode.IsLetter) {
		return errs.InvalidFields(op, "", errs.Field{Path: "reason", Description: "has no letter, or a character that cannot be seen"})
	}
	if reason == "" {
		settings, err := s.settingsOf(ctx, caller.Account)
		if err != nil {
			return err
		}
		if settings.ViewReasonRequired {
			return errs.InvalidFields(op, "", errs.Field{Path: "reason", Description: "is needed, since the account asks why the use of named people is looked at"})
		}
	}
	event := &meteringv1.NamedUseViewed{Method: op[strings.LastIndexByte(op, '.')+1:]}
	for _, p := range at.principals[:min(len(at.principals), maxViewed)] {
		event.PrincipalIds = append(event.PrincipalIds, p[:])
	}
	for _, m := range at.machines[:min(len(at.machines), maxViewed)] {
		event.MachineIds = append(event.MachineIds, m[:])
	}
	if !at.instance.IsZero() {
		event.InstanceId = at.instance[:]
	}
	question, err := proto.MarshalOptions{Deterministic: true}.Marshal(event)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	view := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s", caller.Account, caller.Actor, reason, question))
	if s.views.known(view, time.Now()) {
		return nil
	}
	viewer := caller.Login
	if viewer.IsZero() {
		viewer = caller.Account
	}
	event.KeyId = viewer[:]
	if reason != "" {
		if s.commands.people.keys == nil {
			return errs.New(errs.Precondition, op, "", "a reason cannot be kept, since this process has no keyring: start it with one")
		}
		key, err := s.commands.people.keys.KeyOf(ctx, caller.Account, viewer)
		if err != nil {
			return errs.Wrap(op, "", err)
		}
		event.SealedReason = keyring.SealText(key, viewer, keyring.WhatReason, reason)
	}
	if err := s.record(ctx, viewSubject(caller.Account, viewer), caller.Actor, event); err != nil {
		return resource.CommandError(op, err)
	}
	s.views.add(view, time.Now())
	return nil
}

// unseen tells of characters that a reader of the audit log would not see, or that change the
// order in which others are seen.
func unseen(r rune) bool { return !unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r) }

// record appends an event whose aggregate decides nothing, so that nobody reads it.
func (s *Service) record(ctx context.Context, subject, actor string, message proto.Message) error {
	event, err := s.registry.Encode(message)
	if err != nil {
		return err
	}
	event.Actor, event.ID = actor, resource.NewID().String()
	log := s.commands.principals.Log
	s.views.appending.Lock()
	defer s.views.appending.Unlock()
	for range viewAttempts {
		last, err := log.Last(ctx, subject)
		if err != nil {
			return err
		}
		if _, err = log.Append(ctx, subject, last, event); !errors.Is(err, eventlog.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("metering: %d attempts met %w", viewAttempts, eventlog.ErrConflict)
}
