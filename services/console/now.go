package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

const (
	// heartbeat is how often a silent stream shows that it lives.
	heartbeat = 15 * time.Second
	// slowReader is how long a browser may take to accept one change, or one part of a file.
	slowReader = 30 * time.Second
)

// nowPage is who has what open.
type nowPage struct {
	*asked
	Zone     *time.Location
	Sessions []*meteringv1.LiveSession
	// All says that the page shows everybody's, not only what is the person's own.
	All      bool
	Programs []choice
	Reason   string
	filterBar
}

// State and its companions are for templates.
func (nowPage) State(i *meteringv1.LiveInstance) stateWord { return stateOf(i) }

// stateWord is how a state is shown: a word, and a colour that only repeats it.
type stateWord struct{ Word, Kind string }

func stateOf(i *meteringv1.LiveInstance) stateWord {
	switch i.GetState() {
	case usagev1.State_STATE_ACTIVE:
		return stateWord{"Active", "active"}
	case usagev1.State_STATE_TIMEOUT:
		return stateWord{"Timeout", "timeout"}
	case usagev1.State_STATE_INACTIVE, usagev1.State_STATE_UNSPECIFIED:
	}
	switch i.GetAttention() {
	case usagev1.Attention_ATTENTION_BACKGROUND:
		return stateWord{"Inactive, in the background", "inactive"}
	case usagev1.Attention_ATTENTION_IDLE:
		return stateWord{"Inactive, idle", "inactive"}
	case usagev1.Attention_ATTENTION_AWAY:
		return stateWord{"Inactive, away", "inactive"}
	case usagev1.Attention_ATTENTION_PAUSED:
		return stateWord{"Paused", "unknown"}
	case usagev1.Attention_ATTENTION_SUSPENDED:
		return stateWord{"Asleep", "unknown"}
	case usagev1.Attention_ATTENTION_UNKNOWN:
		return stateWord{"Unknown", "unknown"}
	case usagev1.Attention_ATTENTION_BUSY, usagev1.Attention_ATTENTION_UNSPECIFIED:
	}
	return stateWord{"Inactive", "inactive"}
}

func (s *Service) now(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	query := v.r.URL.Query()
	v.asks().unknown(v.page, query)
	page := nowPage{asked: v.asks(), Zone: zone, All: seesAll(v.caller.Privileges), Reason: v.reason()}
	if !v.overheard {
		if page.Programs, err = s.programChoices(v, query.Get("application")); err != nil {
			return nil, err
		}
		if page.filterBar, err = s.filterBar(v, query); err != nil {
			return nil, err
		}
	}
	if err := wrongIDs(query); err != nil {
		return page, err
	}
	stream, err := s.usage.StreamLiveUsage(v.ctx, &meteringv1.StreamLiveUsageRequest{Filter: filterOf(query), Reason: page.Reason})
	if err != nil {
		return page, err
	}
	first, err := stream.Recv()
	page.Sessions = first.GetSessions()
	return page, err
}

// liveChange is one line of the stream that keeps the page up to date.
type liveChange struct {
	// ID is the session's.
	ID string `json:"id"`
	// HTML takes the place of what the page shows of it; empty where it ended.
	HTML string `json:"html,omitempty"`
}

// nowChanges follows what the page shows, as server-sent events: `all` with the ids of everything
// that is there, then `session` for each that changes.
func (s *Service) nowChanges(v *visit) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		s.fail(v, err)
		return
	}
	ctx, end := context.WithCancel(v.ctx)
	var reading sync.WaitGroup
	defer func() { end(); reading.Wait() }()
	stream, err := s.usage.StreamLiveUsage(ctx, &meteringv1.StreamLiveUsageRequest{Filter: filterOf(v.r.URL.Query()), Reason: v.reason()})
	if err != nil {
		s.fail(v, err)
		return
	}
	type received struct {
		message *meteringv1.StreamLiveUsageResponse
		err     error
	}
	messages := make(chan received)
	reading.Go(func() {
		defer close(messages)
		for {
			m, err := stream.Recv()
			select {
			case messages <- received{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	out := http.NewResponseController(v.w)
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // of the connection, which may be asked again
	began := false
	send := func(text string) error {
		if !began {
			v.w.Header().Set("Content-Type", "text/event-stream")
			v.w.Header().Set("X-Accel-Buffering", "no")
			began = true
		}
		if err := out.SetWriteDeadline(s.deps.Now().Add(slowReader)); err != nil {
			return err
		}
		if _, err := io.WriteString(v.w, text); err != nil {
			return err
		}
		return out.Flush()
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var text string
		select {
		case <-s.stopping:
			return // the browser comes again by itself
		case <-beat.C:
			text = ": still there\n\n"
		case m, ok := <-messages:
			if !ok || errors.Is(m.err, io.EOF) {
				return
			}
			if m.err != nil {
				if !began {
					s.fail(v, m.err)
				}
				return
			}
			if text, err = s.changes(v.r, m.message, zone); err != nil {
				s.deps.Logger.ErrorContext(v.ctx, "a change of the live view could not be shown", "error", err)
				return
			}
		}
		if err := send(text); err != nil {
			return // the browser went away
		}
	}
}

// changes writes one message of the live stream as events.
func (s *Service) changes(r *http.Request, m *meteringv1.StreamLiveUsageResponse, zone *time.Location) (string, error) {
	var out bytes.Buffer
	write := func(event string, data any) error {
		line, err := json.Marshal(data)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(&out, "event: %s\ndata: %s\n\n", event, line)
		return err
	}
	if m.GetComplete() {
		ids := []string{}
		for _, session := range m.GetSessions() {
			ids = append(ids, session.GetSessionId())
		}
		if err := write("all", ids); err != nil {
			return "", err
		}
	}
	for _, session := range m.GetSessions() {
		var rows bytes.Buffer
		if err := s.render(&rows, r, "now", "session", liveRows{session, zone}); err != nil {
			return "", err
		}
		if err := write("session", liveChange{ID: session.GetSessionId(), HTML: rows.String()}); err != nil {
			return "", err
		}
	}
	for _, id := range m.GetEndedSessionIds() {
		if err := write("session", liveChange{ID: id}); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// liveRows is one session's part of the table.
type liveRows struct {
	Session *meteringv1.LiveSession
	Zone    *time.Location
}

// Rows is for templates.
func (p nowPage) Rows(session *meteringv1.LiveSession) liveRows { return liveRows{session, p.Zone} }

// State is for templates.
func (liveRows) State(i *meteringv1.LiveInstance) stateWord { return stateOf(i) }
