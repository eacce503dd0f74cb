package audit

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const (
	op          = "audit.Viewed"
	contextName = "audit"
	eventType   = "cetrus.audit.viewer.use_viewed.v1"
	// mostAttempts bounds how often two calls of one viewer may meet.
	mostAttempts = 50
	// mostNamed bounds the persons that one event names; more are everybody.
	mostNamed = 1000
)

// View is what somebody sees.
type View struct {
	// Method that answers, as cetrus.metering.v1.UsageService/ListPersons.
	Method string
	// Principals whose use it is; none: everybody's of the account.
	Principals []contract.ID
	// From and To bound the time of the use; zero: all.
	From, To time.Time
	// Reason that the viewer gave; may be empty.
	Reason string
}

// Viewed records a view by the caller of ctx. Its error is to be answered in place of what
// would have been shown.
func Viewed(ctx context.Context, log eventlog.Log, view View) error {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return err
	}
	message := &identityv1.UseViewed{Method: view.Method, Reason: view.Reason}
	if len(view.Principals) <= mostNamed {
		for _, id := range view.Principals {
			message.PrincipalIds = append(message.PrincipalIds, id[:])
		}
	}
	if !view.From.IsZero() {
		message.StartTime = timestamppb.New(view.From)
	}
	if !view.To.IsZero() {
		message.EndTime = timestamppb.New(view.To)
	}
	event, err := eventlog.NewRegistry(eventlog.Current[*identityv1.UseViewed](eventType)).Encode(message)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	event.Actor = caller.Actor
	viewer := caller.Login
	if viewer.IsZero() {
		viewer = caller.Account // a key that is no login's
	}
	subject := contract.EventSubject(caller.Account, contextName, "viewer", viewer.String())
	for attempt := 0; ; attempt++ {
		last, err := log.Last(ctx, subject)
		if err == nil {
			_, err = log.Append(ctx, subject, last, event)
		}
		if !errors.Is(err, eventlog.ErrConflict) || attempt == mostAttempts {
			return errs.Wrap(op, "", err)
		}
		select {
		case <-ctx.Done():
			return errs.Wrap(op, "", ctx.Err())
		case <-time.After(time.Duration(rand.Int64N(int64(min(time.Millisecond<<min(attempt, 7), 100*time.Millisecond))))):
		}
	}
}
